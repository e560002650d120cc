"""What ``replay`` prints: the place, what is likely, and the layers around it."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from trainctl.analysis.anomalies import Values
    from trainctl.analysis.replay import Replay, Row

_WIDTH = 100
_NOTHING = "-"


def show(replay: Replay, stream: TextIO | None = None) -> None:
    """Print to ``stream``; in colours on a terminal, unless NO_COLOR is set."""
    stream = stream or sys.stdout
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        _show_rich(replay, stream)
    else:
        _show_plain(replay, stream)


def _title(replay: Replay) -> str:
    return f"step {replay.step} again; in training, {replay.why}"


def _findings(replay: Replay) -> list[tuple[str, str]]:
    if replay.where is None:
        return [("found", "nothing: loss and gradients are finite")]
    rows = [("first", f"the first value that is not finite is {replay.where}")]
    if replay.line:
        rows.append(("line", replay.line))
    return [*rows, ("likely", replay.likely)]


def _headings(replay: Replay) -> tuple[str, ...]:
    return "", "gradient of" if replay.backward else "layer", "", "shape", "min", "max", "finite"


def _cells(row: Row) -> tuple[str, ...]:
    return (">" if row.is_place else "", row.name, row.kind, *_values(row.values))


def _values(values: Values | None) -> tuple[str, str, str, str]:
    """Shape, smallest and largest finite value, finite share."""
    if values is None:
        return (_NOTHING,) * 4
    low, high = (_NOTHING if each is None else f"{each:.4g}" for each in (values.low, values.high))
    if values.finite == values.size:
        share = "all"
    else:
        # Rounded down: not all is never 100 %.
        share = f"{int(1000 * values.finite / values.size) / 10:g} %" if values.finite else "none"
    return str(values.shape), low, high, share


def _show_plain(replay: Replay, stream: TextIO) -> None:
    print(_title(replay), file=stream)
    labelled = [*replay.settings, *_findings(replay)]
    indent = max(len(label) for label, _ in labelled) + 4
    for label, text in labelled:
        lines = textwrap.wrap(text, _WIDTH - indent, break_long_words=False, break_on_hyphens=False)
        print(f"  {label}".ljust(indent) + f"\n{' ' * indent}".join(lines), file=stream)
    if not replay.rows:
        return
    table = [_headings(replay), *map(_cells, replay.rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(file=stream)
    for row in table:
        cells = (
            f"{cell:>{width}}" if number > 3 else f"{cell:<{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip(), file=stream)


def _show_rich(replay: Replay, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    console.print(Text(_title(replay), style="bold cyan"))
    grid = Table.grid(padding=(0, 2))
    for label, text in replay.settings:
        grid.add_row(Text(label, style="dim"), Text(text))
    for label, text in _findings(replay):
        style = {"first": "bold red", "found": "yellow"}.get(label, "")
        grid.add_row(Text(label, style="dim"), Text(text, style=style))
    console.print(grid)
    if not replay.rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for number, heading in enumerate(_headings(replay)):
        table.add_column(heading, justify="right" if number > 3 else "left", overflow="fold")
    for row in replay.rows:
        table.add_row(*map(Text, _cells(row)), style="red" if row.is_place else "")
    console.print()
    console.print(table)
