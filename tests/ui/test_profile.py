"""The table of where time goes."""

from __future__ import annotations

import io
from pathlib import Path

from trainctl.training.hooks.profile import PARTS, Operator, Profile
from trainctl.ui.profile import show, text


def made(operators: int = 20) -> Profile:
    parts = dict(zip(PARTS, (100.0, 200.0, 300.0, 400.0, 0.0), strict=True))
    found = [
        Operator(f"aten::op{number}", 10.0 * (operators - number), 1.0 + number)
        for number in range(operators)
    ]
    return Profile(20, parts, 10, found, "cpu", Path("run/profile/trace.json"))


def test_shares_add_up() -> None:
    lines = list(text(made(), "run/profile/trace.json"))
    assert lines[0] == "time per step: 1000 µs, mean of 20 steps on cpu"
    assert [line.split()[0] for line in lines[1:6]] == list(PARTS)
    assert [line.split()[3] for line in lines[1:6]] == ["10%", "20%", "30%", "40%", "0%"]
    assert lines[4].endswith("█" * 8)
    assert lines[-1].endswith("run/profile/trace.json")


def test_the_slowest_operators_and_the_rest_of_them() -> None:
    lines = list(text(made(), ""))
    assert "2100 µs per step, mean of 10 traced steps" in lines[6]
    assert len(lines) == 1 + 5 + 1 + 12 + 1 + 1
    assert lines[7].split() == ["aten::op0", "200", "µs", "10%"]
    assert lines[8].split()[:3] == ["aten::op1", "×", "2"]
    # 8 + 7 + … + 1 tens of microseconds are left.
    assert lines[-2].split() == ["8", "more", "360", "µs", "17%"]
    assert not any("more" in line for line in text(made(5), ""))


def test_names_that_are_too_long_and_times_of_every_size() -> None:
    found = Profile(1, dict.fromkeys(PARTS, 5e7), 1, [Operator("x" * 99, 2e4, 1.0)], "cuda", Path("t"))
    lines = list(text(found, "t"))
    assert "time per step: 250.0 s" in lines[0]
    assert "…" in lines[7]
    assert "20.0 ms" in lines[7]
    assert len(lines[7]) < 80


def test_nothing_is_shown_where_nothing_shall_be() -> None:
    for mode, empty in (("none", True), ("plain", False), ("rich", False)):
        stream = io.StringIO()
        show(made(), "t", mode, stream)
        assert (stream.getvalue() == "") is empty
