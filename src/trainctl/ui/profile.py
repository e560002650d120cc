"""How the time of a training step is spent, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from trainctl.ui.screen import Screen

if TYPE_CHECKING:
    from trainctl.training.hooks.profile import Operator, Profile

_OPERATORS = 12
_WIDTH = 44
_BAR = 20


def show(profile: Profile, place: str, mode: str = "auto", stream: TextIO | None = None) -> None:
    """Print to ``stream`` as ``display.mode`` says; ``place`` is the path of the trace."""
    screen = Screen(stream, mode)
    if screen.mode == "rich":
        screen.line()
    for line in text(profile, place):
        screen.pieces([(line, "" if line.startswith(" ") else "bold cyan")], cut=False)


def text(profile: Profile, place: str) -> Iterator[str]:
    """The lines of the table."""
    whole = sum(profile.parts.values()) or 1.0
    yield f"time per step: {_time(whole)}, mean of {profile.steps} steps on {profile.device}"
    for name, value in profile.parts.items():
        share = value / whole
        yield f"  {name:<10} {_time(value):>9} {share:>5.0%}  {'█' * round(_BAR * share)}".rstrip()
    total = sum(each.microseconds for each in profile.operators) or 1.0
    traced = f"mean of {profile.traced} traced steps (tracing slows them down)"
    yield f"operators on {profile.device}: {_time(total)} per step, {traced}"
    shown = profile.operators[:_OPERATORS]
    for each in shown:
        yield f"  {_named(each):<{_WIDTH}} {_time(each.microseconds):>9} {each.microseconds / total:>5.0%}"
    if len(profile.operators) > len(shown):
        rest = total - sum(each.microseconds for each in shown)
        name = f"{len(profile.operators) - len(shown)} more"
        yield f"  {name:<{_WIDTH}} {_time(rest):>9} {rest / total:>5.0%}"
    yield f"trace of all calls, for ui.perfetto.dev: {place}"


def _named(operator: Operator) -> str:
    """An operator's name and its calls per step, cut to the column's width."""
    name = operator.name.removeprefix("autograd::engine::evaluate_function: ")
    calls = f" × {operator.calls:.0f}" if operator.calls >= 1.5 else ""
    room = _WIDTH - len(calls)
    return (name if len(name) <= room else name[: room - 1] + "…") + calls


def _time(microseconds: float) -> str:
    if microseconds < 1e4:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1e3:.1f} ms" if microseconds < 1e7 else f"{microseconds / 1e6:.1f} s"
