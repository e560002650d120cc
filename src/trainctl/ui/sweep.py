"""What a person sees of a sweep: its jobs while they run, live or line by line, and the ranked table."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trainctl.sweep.ledger import Job, Row
from trainctl.training.display import duration, number
from trainctl.training.request import Draw
from trainctl.ui.console import SafeConsole
from trainctl.ui.display import make_display
from trainctl.ui.errors import show_error
from trainctl.ui.pictures import draw
from trainctl.ui.screen import chosen_mode

_REDRAWS_A_SECOND = 4
_READ_EVERY = 0.3
_LINES_AROUND = 6
_STYLES = {
    "done": "green",
    "failed": "bold red",
    "running": "cyan",
    "interrupted": "yellow",
    "waiting": "dim",
}
_FIRST = ("running", "failed", "interrupted", "waiting", "done")


class TerminalReporter:
    """Shows a sweep on standard output, and why jobs failed on standard error: the ``Reporter`` of
    :func:`trainctl.sweep.start.sweep`."""

    run_display = staticmethod(make_display)
    error = staticmethod(show_error)

    def __init__(self) -> None:
        self._display: SweepDisplay | None = None
        self.draw: Draw = draw

    def notice(self, text: str) -> None:
        """A line, above the table of jobs while there is one."""
        if self._display is None:
            print(text, flush=True)
        else:
            self._display.notice(text)

    def watch(self, mode: str, jobs: Sequence[Job], row_of: Callable[[Job], Row]) -> None:
        """Show these jobs from now on: a live table on a terminal, lines elsewhere."""
        chosen = chosen_mode(mode, sys.stdout)
        if chosen == "rich":
            self._display = LiveTable(jobs, row_of, sys.stdout)
        else:
            self._display = Lines(jobs, row_of, sys.stdout, quiet=chosen == "none")

    def update(self) -> None:
        """Show what has changed."""
        if self._display is not None:
            self._display.update()

    def unwatch(self) -> None:
        """The jobs have ended."""
        display, self._display = self._display, None
        if display is not None:
            display.close()

    def answer(self, directory: Path) -> None:
        """The ranked table of the sweep in ``directory``."""
        from trainctl.analysis.ranking import compare
        from trainctl.ui.compare import show

        show(compare([directory]), sys.stdout)


class SweepDisplay(ABC):
    """Shows how jobs are getting on. The rows of those that have ended are not read again."""

    def __init__(self, jobs: Sequence[Job], row_of: Callable[[Job], Row]) -> None:
        self.jobs, self._row_of = jobs, row_of
        self.rows = {job.number: row_of(job) for job in jobs}
        self._read_at = 0.0
        self._ended: set[int] = set()

    @abstractmethod
    def notice(self, text: str) -> None: ...

    @abstractmethod
    def changed(self, job: Job, row: Row) -> None:
        """A job has begun, ended or gone back."""

    def update(self, *, at_once: bool = False) -> None:
        """Read the rows, unless that was a moment ago, and show what has changed."""
        if not at_once and time.monotonic() - self._read_at < _READ_EVERY:
            return
        self._read_at = time.monotonic()
        for job in self.jobs:
            if job.number in self._ended:
                continue
            before, row = self.rows[job.number], self._row_of(job)
            self.rows[job.number] = row
            if (row.state, row.attempts) != (before.state, before.attempts):
                self.changed(job, row)
                if row.state in ("done", "failed"):
                    self._ended.add(job.number)

    def close(self) -> None:
        self.update(at_once=True)


class Lines(SweepDisplay):
    """A line where a job began or ended; ``quiet``, where one failed."""

    def __init__(
        self, jobs: Sequence[Job], row_of: Callable[[Job], Row], stream: TextIO, *, quiet: bool
    ) -> None:
        super().__init__(jobs, row_of)
        self._stream, self._quiet = stream, quiet

    def notice(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def changed(self, job: Job, row: Row) -> None:
        if row.state == "failed" or not (self._quiet or row.state == "waiting"):
            self.notice(f"job {job.number} {_how(row)}: {job.label}{_outcome(row)}")


class LiveTable(SweepDisplay):
    """All jobs in a table that is redrawn by rich's own thread; as many as the terminal has room for."""

    def __init__(self, jobs: Sequence[Job], row_of: Callable[[Job], Row], stream: TextIO) -> None:
        super().__init__(jobs, row_of)
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

    def changed(self, job: Job, row: Row) -> None:
        if row.state == "failed":
            self._console.print(Text(f"job {job.number} failed: {job.label}{_outcome(row)}", style="red"))

    def _render(self) -> RenderableType:
        ordered = sorted(self.jobs, key=lambda job: (_FIRST.index(self.rows[job.number].state), job.number))
        room = max(3, self._console.size.height - _LINES_AROUND)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("job", "settings", "state", "step", "loss"):
            table.add_column(name, justify="right" if name in ("job", "step", "loss") else "left")
        for job in sorted(ordered[:room], key=lambda job: job.number):
            row = self.rows[job.number]
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
        states = [row.state for row in self.rows.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in _FIRST if state in states)
        return Group(table, Text(counts + rest, style="dim"))

    def close(self) -> None:
        super().close()
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
