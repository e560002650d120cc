"""Values in words, and the choice of a display."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.display import Terminal
from trainctl.paths import short_path
from trainctl.training.display import Display, duration, number
from trainctl.ui.display import make_display
from trainctl.ui.live import Rich
from trainctl.ui.plain import Plain


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm-256color")
    return


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (0.5, "0.5000"),
        (0.12345, "0.1235"),
        (0.001, "0.0010"),
        (0.00099, "9.900e-04"),
        (999.9, "999.9000"),
        (93007.9988, "93008.0"),
        (216412.34, "216412.3"),
        (1e7, "1.000e+07"),
        (-1e-9, "-1.000e-09"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (3, "3"),
        ("nan", "nan"),
        (None, "None"),
    ],
)
def test_a_number_for_a_table(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (0.44, "0.4 s"),
        (10.0, "10 s"),
        (60.0, "1:00"),
        (3599.0, "59:59"),
        (3599.6, "1:00:00"),
        (3723.0, "1:02:03"),
    ],
)
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_path_is_as_short_as_it_can_be_typed(tmp_path: Path) -> None:
    assert short_path(tmp_path / "outputs" / "a") == "outputs/a"
    assert short_path(Path("/somewhere/else")) == "/somewhere/else"


@pytest.mark.parametrize(
    ("mode", "terminal", "expected"),
    [
        ("auto", True, Rich),
        ("auto", False, Plain),
        ("plain", True, Plain),
        ("rich", True, Rich),
        ("none", True, Display),
    ],
)
def test_the_display_that_fits_the_stream(mode: str, terminal: bool, expected: type) -> None:
    assert type(make_display(mode, None, Terminal() if terminal else io.StringIO())) is expected


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display("auto", None, Terminal()), Plain)


@pytest.mark.parametrize(
    ("mode", "every", "expected"),
    [("plain", None, 100), ("plain", 7, 7), ("rich", None, None), ("rich", 7, 7), ("none", 7, None)],
)
def test_how_often_a_step_is_shown(mode: str, every: int | None, expected: int | None) -> None:
    assert make_display(mode, every, io.StringIO()).every == expected


def test_without_a_stream_it_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    make_display("plain", None).notice("hello")
    assert capsys.readouterr().out == "hello\n"
