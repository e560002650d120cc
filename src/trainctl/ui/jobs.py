"""What a sweep shows on the terminal: its jobs while they run, and the ranked table at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainctl.errors import TrainctlError
from trainctl.sweep.ledger import Job, Row
from trainctl.training.display import Display
from trainctl.training.request import Draw
from trainctl.ui.display import make_display
from trainctl.ui.errors import show_error
from trainctl.ui.pictures import draw
from trainctl.ui.sweep import SweepDisplay, make_sweep_display


class TerminalReporter:
    """Shows a sweep on standard output, and why jobs failed on standard error."""

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
        """Show these jobs from now on."""
        self._display = make_sweep_display(mode, jobs, row_of)

    def update(self) -> None:
        """Show what has changed."""
        if self._display is not None:
            self._display.update()

    def unwatch(self) -> None:
        """The jobs have ended."""
        display, self._display = self._display, None
        if display is not None:
            display.close()

    def run_display(self, mode: str, every: int | None) -> Display:
        """The display of a single run."""
        return make_display(mode, every)

    def answer(self, directory: Path) -> None:
        """The ranked table of the sweep in ``directory``."""
        from trainctl.analysis.ranking import compare
        from trainctl.ui.compare import show

        show(compare([directory]), sys.stdout)

    def error(self, error: TrainctlError) -> None:
        """Why a job failed."""
        show_error(error)
