"""What a person sees of a sweep while it runs: a live table of its jobs, or a line for each event."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trainctl.sweep.ledger import Job, Row
from trainctl.training.display import duration, number
from trainctl.ui.console import SafeConsole
from trainctl.ui.display import make_display

_REDRAWS_A_SECOND = 4
_LINES_AROUND = 6
_STYLES = {
    "done": "green",
    "failed": "bold red",
    "running": "cyan",
    "interrupted": "yellow",
    "waiting": "dim",
}
_FIRST = ("running", "failed", "interrupted", "waiting", "done")


class SweepDisplay(Protocol):
    """Shows how the jobs of a sweep are getting on."""

    def notice(self, text: str) -> None: ...
    def update(self, *, at_once: bool = False) -> None: ...
    def close(self) -> None: ...


def make_sweep_display(
    mode: str, jobs: Sequence[Job], row_of: Callable[[Job], Row], stream: TextIO | None = None
) -> SweepDisplay:
    """The display for ``display.mode``; ``auto`` is the live table on a terminal and lines elsewhere.

    ``row_of`` reads what has become of a job.
    """
    stream = stream or sys.stdout
    chosen = type(make_display(mode, None, stream)).__name__
    if chosen == "Rich":
        return LiveTable(jobs, row_of, stream)
    return Lines(jobs, row_of, stream, quiet=chosen == "Silent")


class _Rows:
    """The rows as they were last read; those that have ended since are not read again."""

    def __init__(self, jobs: Sequence[Job], row_of: Callable[[Job], Row]) -> None:
        self.jobs, self._row_of = jobs, row_of
        self.rows = {job.number: row_of(job) for job in jobs}
        self._looked = 0.0
        self._ended: set[int] = set()

    def read(self) -> list[tuple[Job, Row, Row]]:
        """Read, and return what has another state than before: job, row before, row now."""
        changed = []
        for job in self.jobs:
            if job.number in self._ended:
                continue
            before, row = self.rows[job.number], self._row_of(job)
            self.rows[job.number] = row
            if (row.state, row.attempts) != (before.state, before.attempts):
                changed.append((job, before, row))
                if row.state in ("done", "failed"):
                    self._ended.add(job.number)
        return changed

    def due(self, seconds: float) -> bool:
        """Whether so much time has passed since this was last true."""
        if time.monotonic() - self._looked < seconds:
            return False
        self._looked = time.monotonic()
        return True

    def counted(self) -> str:
        """How many are in which state."""
        states = [row.state for row in self.rows.values()]
        return ", ".join(f"{states.count(state)} {state}" for state in _FIRST if state in states)


class Lines:
    """A line where a job began or ended."""

    def __init__(
        self, jobs: Sequence[Job], row_of: Callable[[Job], Row], stream: TextIO, *, quiet: bool
    ) -> None:
        self._rows, self._quiet = _Rows(jobs, row_of), quiet
        self._stream = stream

    def notice(self, text: str) -> None:
        self._print(text)

    def update(self, *, at_once: bool = False) -> None:
        if not at_once and not self._rows.due(0.3):
            return
        for job, _, row in self._rows.read():
            if row.state == "waiting" or (self._quiet and row.state != "failed"):
                continue
            self._print(f"job {job.number} {_how(row)}: {job.label}{_outcome(row)}")

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        self.update(at_once=True)


class LiveTable:
    """All jobs in a table that is redrawn by rich's own thread; as many as the terminal has room for."""

    def __init__(self, jobs: Sequence[Job], row_of: Callable[[Job], Row], stream: TextIO) -> None:
        self._rows = _Rows(jobs, row_of)
        self._console = SafeConsole(stream)
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=_REDRAWS_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def notice(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"))

    def update(self, *, at_once: bool = False) -> None:
        if not at_once and not self._rows.due(0.3):
            return
        for job, _, row in self._rows.read():
            if row.state == "failed":
                self._console.print(Text(f"job {job.number} failed: {job.label}{_outcome(row)}", style="red"))

    def _render(self) -> RenderableType:
        ordered = sorted(
            self._rows.jobs, key=lambda job: (_FIRST.index(self._rows.rows[job.number].state), job.number)
        )
        room = max(3, self._console.size.height - _LINES_AROUND)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("job", "settings", "state", "step", "loss"):
            table.add_column(name, justify="right" if name in ("job", "step", "loss") else "left")
        for job in sorted(ordered[:room], key=lambda job: job.number):
            row = self._rows.rows[job.number]
            steps = f"{row.step}/{row.total_steps}" if row.total_steps else number(row.step or "")
            table.add_row(
                str(job.number),
                Text(job.label, overflow="ellipsis", no_wrap=True),
                Text(row.state, style=_STYLES[row.state]),
                steps,
                "" if row.loss is None else number(row.loss),
            )
        hidden = len(ordered) - room
        rest = f"  ({hidden} more not shown)" if hidden > 0 else ""
        return Group(table, Text(self._rows.counted() + rest, style="dim"))

    def close(self) -> None:
        self.update(at_once=True)
        self._live.stop()


def _how(row: Row) -> str:
    if row.state == "running":
        return "started" if row.attempts < 2 else f"resumed (attempt {row.attempts})"
    return row.state


def _outcome(row: Row) -> str:
    if row.state in ("failed", "interrupted"):
        return f" ({row.reason})" if row.reason else ""
    if row.state == "done" and row.seconds is not None:
        return f" ({duration(row.seconds)}{f', {row.reason}' if row.reason else ''})"
    return ""
