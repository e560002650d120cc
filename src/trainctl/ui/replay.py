"""What ``replay`` prints: where the first bad value is, the likely cause, and the modules around it."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

from trainctl.ui.console import SafeConsole

if TYPE_CHECKING:
    from trainctl.analysis.anomalies import Values
    from trainctl.analysis.replay import Place, Replay

_WIDTH = 100
_NOTHING = "-"
_STYLES = {"first": "bold red", "found": "yellow"}


def show(replay: Replay, stream: TextIO | None = None) -> None:
    """Print to ``stream``; in colours on a terminal, unless NO_COLOR is set."""
    # A line is never cut: a pipe has no width, and a terminal wraps.
    console = SafeConsole(stream or sys.stdout, soft_wrap=True)
    title = f"step {replay.step} again; in training, {replay.why}"
    console.print(Text(title, style="bold cyan"))
    labelled = [*replay.settings, *_findings(replay)]
    indent = max(len(label) for label, _ in labelled) + 4
    for label, text in labelled:
        lines = textwrap.wrap(text, _WIDTH - indent, break_long_words=False, break_on_hyphens=False)
        wrapped = f"\n{' ' * indent}".join(lines)
        console.print(Text.assemble((f"  {label}".ljust(indent), "dim"), (wrapped, _STYLES.get(label, ""))))
    if replay.place is not None:
        console.print()
        _show_table(replay, replay.place, console)


def _findings(replay: Replay) -> list[tuple[str, str]]:
    if replay.place is None:
        return [("found", "nothing: loss and gradients are finite")]
    line = [("line", replay.line)] if replay.line else []
    first = ("first", f"the first value that is not finite is {replay.place.text}")
    return [first, *line, ("likely", replay.likely)]


def _show_table(replay: Replay, place: Place, console: Console) -> None:
    is_backward = place.kind == "backward"
    table = [("", "gradient of" if is_backward else "layer", "", "shape", "min", "max", "finite")]
    for call in replay.rows:
        cells = _cells(call.gradient if is_backward else call.outputs)
        table.append((">" if call is place.call else "", call.name, call.kind, *cells))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        left = [f"{cell:<{width}}" for cell, width in zip(row[:4], widths, strict=False)]
        right = [f"{cell:>{width}}" for cell, width in zip(row[4:], widths[4:], strict=True)]
        style = "red" if row[0] else "" if number else "dim"
        console.print(Text("  ".join([*left, *right]), style=style))


def _cells(values: Values) -> tuple[str, str, str, str]:
    """Shape, smallest and largest finite value, finite share."""
    if not values.size:
        return (_NOTHING,) * 4
    low, high = (f"{each:.4g}" if values.finite else _NOTHING for each in (values.low, values.high))
    # Rounded down: 100 % would mean all.
    share = f"{int(1000 * values.finite / values.size) / 10:g} %" if values.finite else "none"
    return str(values.shape), low, high, "all" if values.finite == values.size else share
