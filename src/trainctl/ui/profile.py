"""Where the time of a step goes, as a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from trainctl.training.hooks.profile import Operator, Profile

_OPERATORS = 12
_WIDTH = 44
_BAR = 20


def show(profile: Profile, place: str, mode: str = "auto", stream: TextIO | None = None) -> None:
    """Print to ``stream``, as ``display.mode`` says; ``auto`` is rich on a terminal and plain elsewhere.

    ``place`` is where the trace lies, as people would type it.
    """
    stream = stream or sys.stdout
    if mode == "auto":
        mode = "rich" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if mode == "none":
        return
    if mode == "plain":
        for line in text(profile, place):
            print(line, file=stream)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    console.print()
    for line in text(profile, place):
        headed = not line.startswith(" ")
        console.print(Text(line, style="bold cyan" if headed else "", no_wrap=True, overflow="ellipsis"))


def text(profile: Profile, place: str) -> Iterator[str]:
    """The lines of the table."""
    whole = sum(profile.parts.values()) or 1.0
    yield f"where a step goes: {_time(whole)} a step, mean of {profile.steps} steps on the {profile.device}"
    for name, value in profile.parts.items():
        share = value / whole
        yield f"  {name:<10} {_time(value):>9} {share:>5.0%}  {'█' * round(_BAR * share)}".rstrip()
    total = sum(each.microseconds for each in profile.operators) or 1.0
    traced = f"{profile.traced} traced steps, slower for it"
    yield f"operators on the {profile.device}: {_time(total)} a step, {traced}"
    shown = profile.operators[:_OPERATORS]
    for each in shown:
        yield f"  {_named(each):<{_WIDTH}} {_time(each.microseconds):>9} {each.microseconds / total:>5.0%}"
    if len(profile.operators) > len(shown):
        rest = total - sum(each.microseconds for each in shown)
        name = f"{len(profile.operators) - len(shown)} more"
        yield f"  {name:<{_WIDTH}} {_time(rest):>9} {rest / total:>5.0%}"
    yield f"every call, for ui.perfetto.dev: {place}"


def _named(operator: Operator) -> str:
    """An operator's name and how often a step calls it, cut to the column."""
    name = operator.name.removeprefix("autograd::engine::evaluate_function: ")
    calls = f" × {operator.calls:.0f}" if operator.calls >= 1.5 else ""
    room = _WIDTH - len(calls)
    return (name if len(name) <= room else name[: room - 1] + "…") + calls


def _time(microseconds: float) -> str:
    if microseconds < 1e4:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1e3:.1f} ms" if microseconds < 1e7 else f"{microseconds / 1e6:.1f} s"
