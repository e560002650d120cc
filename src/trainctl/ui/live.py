"""A run on a terminal: a header, a row for each epoch, a live line, a closing table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainctl.training.display import Display, Progress, Source, duration, number, short_name, step_words
from trainctl.ui.console import SafeConsole

_BLOCKS = "▁▂▃▄▅▆▇█"
_REDRAWS_A_SECOND = 8


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The newest ``width`` values as a row of blocks, scaled between the lowest and the highest shown."""
    shown = [value for value in values if value - value == 0][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in shown)


class Rich(Display):
    """Draws on a terminal. Rich's own thread redraws the live line, at most 8 times a second."""

    def __init__(self, stream: TextIO, every: int | None = None, console: Console | None = None) -> None:
        self.console = console or SafeConsole(stream)
        self.every = every
        self._live: Live | None = None
        self._source: Source | None = None
        self._columns: list[str] | None = None
        self._waiting: RenderableType = ""

    def header(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        self._stop()
        table = Table.grid(padding=(0, 2))
        for label, text in rows:
            table.add_row(Text(label, style="dim"), Text(text))
        self.console.print(Text(title, style="bold cyan"))
        self.console.print(table)
        self.console.print()

    def notice(self, text: str) -> None:
        self.console.print(Text(text, style="yellow"))

    def waiting(self, what: str, part: float) -> None:
        """A bar for what is done before the run begins, such as the reading of a large file."""
        self._waiting = Group(Text(f"{what} {part:.0%}", style="dim"), ProgressBar(1.0, part, width=40))
        if self._live is None:
            self._live = self._make_live(lambda: self._waiting)

    def live(self, source: Source) -> None:
        self._source = source
        self._stop()
        self._live = self._make_live(self._render)

    def _make_live(self, render: Callable[[], RenderableType]) -> Live:
        live = Live(
            console=self.console,
            get_renderable=render,
            refresh_per_second=_REDRAWS_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        live.start()
        return live

    def _render(self) -> RenderableType:
        if self._source is None:
            return Text("")
        progress = self._source.progress()
        if progress.step == 0:
            return Text("starting …", style="dim")
        # A narrow terminal leaves out the last ones.
        parts = [
            (f"epoch {progress.epoch}/{progress.epochs}", "bold"),
            (f"step {progress.step}/{progress.total_steps}", ""),
            (f"loss {progress.loss:.4f}", "bold green"),
            (f"{duration(progress.remaining)} left" if progress.remaining is not None else "", "dim"),
            (f"smoothed {progress.smoothed:.4f}", ""),
            (f"lr {progress.lr:.1e}", "dim"),
            (f"{progress.speed:,.0f} samples/s", "dim"),
        ]
        line = Text(no_wrap=True, overflow="ellipsis")
        for text, style in parts:
            if text and len(line) + 2 + len(text) <= self.console.width:
                line.append("  " if line else "").append(text, style=style)
        picture = Table.grid(padding=(0, 1))
        bar = ProgressBar(
            total=max(1, progress.total_steps),
            completed=progress.step,
            width=min(40, self.console.width // 2),
        )
        picture.add_row(
            bar,
            Text(
                sparkline(progress.history, min(24, max(1, self.console.width // 2 - 2))),
                style="green",
                no_wrap=True,
            ),
        )
        return Group(line, picture)

    def step(self, progress: Progress) -> None:
        self.console.print(
            f"{step_words(progress)}  lr {progress.lr:.1e}  {progress.speed:,.0f} samples/s", markup=False
        )

    def epoch(self, progress: Progress, values: Mapping[str, float], seconds: float, *, best: bool) -> None:
        cells = {
            "epoch": f"{progress.epoch}/{progress.epochs}",
            "train/loss": number(progress.epoch_loss),
            **{name: number(value) for name, value in values.items()},
            "samples/s": f"{progress.speed:,.0f}",
            "time": duration(seconds),
        }
        if self._columns != list(cells):
            self._columns = list(cells)
            headings = (f"{_heading(name):>{_width(name)}}" for name in cells)
            self.console.print(Text("  ".join(headings), style="dim"))
        row = Text("  ".join(f"{cell:>{_width(name)}}" for name, cell in cells.items()))
        row.append("  best" if best else "", style="bold green")
        self.console.print(row)

    def table(self, lines: Sequence[str]) -> None:
        self._stop()  # a line that is being redrawn would run through the table
        self.console.print()
        for line in lines:
            style = "" if line.startswith(" ") else "bold cyan"
            self.console.print(Text(line, style=style, no_wrap=True, overflow="ellipsis"))

    def closing(self, rows: Mapping[str, Mapping[str, object]], places: Sequence[tuple[str, str]]) -> None:
        self._stop()
        short = {
            label: {short_name(name): number(value) for name, value in values.items()}
            for label, values in rows.items()
        }
        self.console.print()
        self.console.print(_closing_table(short, self.console.width))
        grid = Table.grid(padding=(0, 2))
        for label, text in places:
            grid.add_row(Text(label, style="dim"), Text(text))
        self.console.print()
        self.console.print(grid)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        self._stop()


def _closing_table(rows: Mapping[str, Mapping[str, str]], width: int) -> Table:
    """A row for each of best, last and test; columns and rows swapped where that is too wide."""
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("")
    if sum(max(6, len(name)) + 4 for name in names) + 8 <= width:
        for name in names:
            table.add_column(Text(name), justify="right")
        for label, values in rows.items():
            table.add_row(Text(label, style="bold"), *(values.get(name, "") for name in names))
        return table
    for label in rows:
        table.add_column(label, justify="right")
    for name in names:
        table.add_row(Text(name, style="dim"), *(values.get(name, "") for values in rows.values()))
    return table


def _heading(name: str) -> str:
    """A column's name: the class for the value of a class (``val/metric/class``)."""
    return name.split("/", 2)[2] if name.count("/") > 1 else name


def _width(name: str) -> int:
    return max(9, len(_heading(name)))
