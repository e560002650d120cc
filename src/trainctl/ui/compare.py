"""Compared runs on the screen: a ranked table, what it means, the runs that are not in it, curves."""

from __future__ import annotations

import math
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from trainctl.analysis.ranking import Comparison, Group, Other, Row, short, shown
from trainctl.paths import short_path
from trainctl.training.display import duration, number

if TYPE_CHECKING:
    from rich.console import Console

MOST_CURVES = 8
"""So many settings can still be told apart in one picture of the terminal."""

_REASON = 100
_MARGIN = "  "
_NOTHING = "nothing to rank: no run has ended with an evaluation on validation data"


@dataclass(frozen=True)
class Column:
    """A column: its heading, on which side its text stands, how soon it goes for want of room (0: never)."""

    name: str
    right: bool = False
    expendable: int = 0


@dataclass(frozen=True)
class Table:
    """Headings and cells, as text."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]

    def without(self, number: int) -> Table:
        """The table without one column."""
        keep = [index for index in range(len(self.columns)) if index != number]
        rows = tuple(tuple(row[index] for index in keep) for row in self.rows)
        return Table(tuple(self.columns[index] for index in keep), rows)

    def widths(self) -> list[int]:
        """The width of each column in characters."""
        cells = [
            [column.name, *(row[index] for row in self.rows)] for index, column in enumerate(self.columns)
        ]
        return [max(map(len, column)) for column in cells]


def show(
    comparison: Comparison, stream: TextIO | None = None, mode: str = "auto", *, curves: bool | None = None
) -> None:
    """Print to ``stream`` as ``display.mode`` says; ``auto`` is rich on a terminal and plain elsewhere.

    ``curves`` draws the runs' courses; None does so on a terminal for up to 8 settings.
    """
    stream = stream or sys.stdout
    if mode == "auto":
        mode = "rich" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if mode == "none":
        return
    several = sum(len(group.rows) for group in comparison.groups) + len(comparison.others) <= MOST_CURVES
    wanted = mode == "rich" and several if curves is None else curves
    if mode == "rich":
        _show_rich(comparison, stream, curves=wanted)
    else:
        _show_plain(comparison, stream, curves=wanted)


# ------------------------------------------------------------------- what is shown


def clean(text: str) -> str:
    """Text of others without what would command a terminal."""
    return "".join("�" if unicodedata.category(each) in ("Cc", "Cs") else each for each in text)


def title(group: Group) -> str:
    """What a table is of."""
    count = len(group.rows)
    runs = sum(len(row.runs) for row in group.rows)
    way = "lower" if group.monitor.lower_is_better else "higher"
    settings = f"{count} setting{'s' if count > 1 else ''}"
    about = group.about or group.monitor.name
    of = f", {runs} runs" if runs != count else ""
    return clean(f"{about}: {settings}{of}, best first ({way} is better)")


def table(group: Group) -> Table:
    """A group as a table of text."""
    rows = group.rows
    seeds = {_seeds(row) for row in rows}
    folded = any(len(row.runs) > 1 or row.unfinished for row in rows)
    columns: list[tuple[Column, list[str]]] = [
        (Column("#", True), ["–" if row.rank is None else str(row.rank) for row in rows]),
        *(
            (Column(short(key), _is_number(rows, key)), [_setting(row.settings[key]) for row in rows])
            for key in group.columns
        ),
        (Column(group.monitor.name, True), [value(row) for row in rows]),
    ]
    if folded:
        columns.append((Column("n", True), [count(row) for row in rows]))
    if len(seeds) > 1:
        columns.append((Column("seed", expendable=1), [_seeds(row) for row in rows]))
    columns += [
        (Column("time", True, 2), [_time(row.seconds) for row in rows]),
        (Column("steps", True, 3), [_number(row.runs[0].step) for row in rows]),
        (Column("parameters", True, 4), [_number(row.runs[0].parameters) for row in rows]),
        (Column("best run"), [place(row.runs[0].directory) for row in rows]),
    ]
    cells = zip(*([clean(cell) for cell in filled] for _, filled in columns), strict=True)
    return Table(
        tuple(Column(clean(each.name), each.right, each.expendable) for each, _ in columns), tuple(cells)
    )


def value(row: Row) -> str:
    """The mean, with the standard deviation where there is one."""
    if not math.isfinite(row.mean):
        return "not finite"
    return number(row.mean) if row.deviation is None else f"{number(row.mean)} ± {number(row.deviation)}"


def count(row: Row) -> str:
    """How many seeds: all, or those that ended of those that were begun."""
    done = len(row.runs)
    return f"{done} of {done + row.unfinished}" if row.unfinished else str(done)


def label(row: Row) -> str:
    """A row's settings in words; where none vary, its run's name or place."""
    words = " ".join(f"{short(key)}={_setting(each)}" for key, each in row.settings.items())
    return clean(words or row.runs[0].name or place(row.runs[0].directory))


def others(comparison: Comparison) -> Table:
    """The runs that are not ranked, as a table of text."""
    rows = [
        (
            each.entry.state,
            "" if each.entry.exit_code is None else str(each.entry.exit_code),
            clean(each.label),
            _shortened(clean(each.why)),
            place(each.entry.directory),
        )
        for each in in_order(comparison.others)
    ]
    return Table(
        (Column("state"), Column("exit", True), Column("run"), Column("why, or how far"), Column("where")),
        tuple(rows),
    )


def in_order(listed: Sequence[Other]) -> list[Other]:
    """The runs that are not ranked, those that someone should look at first."""
    states = ("failed", "unreadable", "terminated", "interrupted", "running", "waiting", "done")
    return sorted(listed, key=lambda other: states.index(other.entry.state))


def place(directory: Path) -> str:
    """Where a run is, as short as it can be typed."""
    return clean(short_path(directory))


def _shortened(text: str) -> str:
    return text if len(text) <= _REASON else text[: _REASON - 1] + "…"


def _setting(value: Any) -> str:
    """As typed; of a number drawn at random, the digits that matter. The files have all of them."""
    text = shown(value)
    return f"{value:.6g}" if isinstance(value, float) and len(text) > 8 else text


def _is_number(rows: Sequence[Row], key: str) -> bool:
    values = [row.settings[key] for row in rows]
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)


def _seeds(row: Row) -> str:
    seeds = sorted(str(run.settings.get("seed", "?")) for run in row.runs)
    seeds.sort(key=lambda seed: (len(seed), seed))
    return ",".join(seeds) if len(seeds) <= 5 else f"{seeds[0]}…{seeds[-1]}"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else "< 1 s" if seconds < 1 else duration(seconds)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


# ------------------------------------------------------------------- plain


def _show_plain(comparison: Comparison, stream: TextIO, *, curves: bool) -> None:
    for group in comparison.groups:
        print(f"\n{title(group)}", file=stream)
        for line in _lines(table(group)):
            print(f"{_MARGIN}{line}", file=stream)
        for finding in group.findings:
            print(clean(finding), file=stream)
    if comparison.others:
        print("\nnot ranked", file=stream)
        for line in _lines(others(comparison)):
            print(f"{_MARGIN}{line}", file=stream)
    if not comparison.groups:
        print(_NOTHING, file=stream)
    for note in comparison.notes:
        print(clean(note), file=stream)
    if curves:
        from trainctl.ui.compare_plot import pictures

        for picture in pictures(comparison, MOST_CURVES, 72, letters=True):
            print(f"\n{picture.title}", file=stream)
            for pieces in picture.lines:
                print("".join(text for text, _ in pieces).rstrip(), file=stream)


def _lines(table: Table) -> Iterator[str]:
    """A table's lines, headings first, cells padded to their column."""
    widths = table.widths()
    for row in (tuple(column.name for column in table.columns), *table.rows):
        cells = (
            f"{cell:>{width}}" if column.right else f"{cell:<{width}}"
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        )
        yield "  ".join(cells).rstrip()


# ------------------------------------------------------------------- rich


def _show_rich(comparison: Comparison, stream: TextIO, *, curves: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    for group in comparison.groups:
        console.print()
        console.print(Text(title(group), style="bold"))
        _print_table(console, table(group), [_style(row) for row in group.rows])
        for finding in group.findings:
            console.print(Text(clean(finding), style="cyan"))
    if comparison.others:
        console.print()
        console.print(Text("not ranked", style="bold"))
        bad = ("failed", "unreadable")
        listed = others(comparison)
        _print_table(console, listed, ["red" if row[0] in bad else "yellow" for row in listed.rows])
    if not comparison.groups:
        console.print(Text(_NOTHING, style="yellow"))
    for note in comparison.notes:
        console.print(Text(clean(note), style="yellow"))
    if curves:
        from trainctl.ui.compare_plot import pictures

        letters = bool(console.no_color) or not console.encoding.startswith("utf")
        for picture in pictures(comparison, MOST_CURVES, min(console.width, 100), letters=letters):
            console.print()
            console.print(Text(picture.title, style="bold"))
            for line in picture.lines:
                console.print(Text.assemble(*line), no_wrap=True, overflow="crop")


def _style(row: Row) -> str:
    return "bold green" if row.rank == 1 else "red" if row.rank is None else ""


def _print_table(console: Console, whole: Table, styles: Sequence[str]) -> None:
    from rich.padding import Padding
    from rich.table import Table as Grid
    from rich.text import Text

    shown_table, left_out = _fitted(whole, console.width - len(_MARGIN))
    drawn = Grid(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in shown_table.columns:
        drawn.add_column(
            Text(column.name),
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
        )
    for row, style in zip(shown_table.rows, styles, strict=True):
        drawn.add_row(*map(Text, row), style=style)
    console.print(Padding(drawn, (0, 0, 0, len(_MARGIN)), expand=False))
    if left_out:
        text = f"in a wider terminal also: {', '.join(left_out)}"
        console.print(Padding(Text(text, style="dim"), (0, 0, 0, len(_MARGIN)), expand=False))


def _fitted(table: Table, width: int) -> tuple[Table, list[str]]:
    """The table without as many expendable columns as it takes to fit, and their names."""
    left_out: list[str] = []
    while sum(table.widths()) + 2 * len(table.columns) > width:
        gone = max(range(len(table.columns)), key=lambda number: table.columns[number].expendable)
        if not table.columns[gone].expendable:
            break
        left_out.append(table.columns[gone].name)
        table = table.without(gone)
    return table, left_out
