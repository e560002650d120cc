"""The curve of a range test as characters."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from tests.helpers.display import Terminal
from trainctl.analysis.lr_finder import Point, RangeTest
from trainctl.ui.tune import plot, show, summary, typed


def drawn(result: RangeTest, width: int, *, dots: bool = False) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in plot(result, width, dots=dots)]


def valley(exploded: float | None = 5.0) -> RangeTest:
    """A loss of 2, lowest (1) at 1e-2, that explodes at the end."""
    rates = [10 ** (-5 + number / 10) for number in range(60)]
    losses = [
        2.0 - max(0.0, 1 - abs(number - 30) / 10) + (50.0 if number > 55 else 0) for number in range(60)
    ]
    points = tuple(Point(lr, loss, loss) for lr, loss in zip(rates, losses, strict=True))
    return RangeTest(points, 64, 2.5, exploded, 3e-3, 1e-2)


@pytest.mark.parametrize(
    ("lr", "word"),
    [
        (3e-3, "lr=3e-3"),
        (1e-7, "lr=1e-7"),
        (0.3, "lr=0.3"),
        (2.0, "lr=2"),
        (20.0, "lr=20"),
        (0.05, "lr=5e-2"),
    ],
)
def test_a_rate_as_it_is_typed(lr: float, word: str) -> None:
    assert typed(lr) == word


def test_the_curve_lies_where_it_should() -> None:
    lines = drawn(valley(), 60)
    assert len(lines) == 13
    # The top is a little above the level it starts from, not at the explosion.
    assert float(lines[0].split()[0]) == pytest.approx(2.25)
    assert float(lines[11].split()[0]) == pytest.approx(1.0)
    # The lowest row has its point under 1e-2, the suggestion is a column left of it.
    scale = lines[-1]
    assert lines[11].index("*") == pytest.approx(scale.index("1e-2"), abs=1)
    assert all(line.rstrip().count("|") <= 1 for line in lines)
    column = lines[0].index("|")
    assert scale.index("1e-3") < column < scale.index("1e-2")
    assert scale.split() == ["1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1e0"]


def test_dots_are_finer_and_as_wide() -> None:
    lines = drawn(valley(), 60, dots=True)
    assert len(lines) == 13
    assert max(map(len, lines[:-1])) <= 60 + 9
    assert any("⠀" < cell <= "⣿" for line in lines for cell in line)


def test_a_narrow_terminal_and_a_flat_curve_are_drawn_all_the_same() -> None:
    assert len(drawn(valley(), 3)) == 13
    flat = RangeTest(tuple(Point(10.0**-n, 1.0, 1.0) for n in (5, 4, 3, 2)), 8, 1.0, None, 1e-4, 1e-3)
    assert any("*" in line for line in drawn(flat, 40))


def test_plain_and_none_and_rich() -> None:
    stream = io.StringIO()
    show(valley(), "mlp", "auto", stream)
    assert stream.getvalue().startswith("loss over learning rate: mlp\n")
    assert "suggestion: lr=3e-3" in stream.getvalue()
    stream = io.StringIO()
    show(valley(), "mlp", "none", stream)
    assert stream.getvalue() == "lr=3e-3\n"
    terminal = Terminal()
    show(valley(), "mlp", "rich", terminal)
    assert "suggestion: lr=3e-3" in terminal.getvalue()


def test_two_rules_that_agree_are_said_once() -> None:
    apart = summary(valley())
    assert "more conservative" in apart[2]
    same = replace(valley(), lowest=valley().suggestion * 10)
    assert same.suggestion == valley().suggestion
    assert "is the same" in summary(same)[2]
    assert "lr=" not in summary(same)[2]


def test_what_is_said_of_the_end() -> None:
    assert "explodes at 5.0e+00" in summary(valley())[1]
    assert "did not explode up to" in summary(valley(None))[1]
