"""The view of a sweep, for the process that was started; its worker processes have none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from trainctl.errors import TrainctlError
from trainctl.sweep.ledger import Job, Row
from trainctl.training.display import Display
from trainctl.training.request import Draw


class Reporter(Protocol):
    """Shows a sweep. ``draw`` draws the pictures of a run, in the process that trains it."""

    draw: Draw

    def notice(self, text: str) -> None: ...

    def watch(self, mode: str, jobs: Sequence[Job], row_of: Callable[[Job], Row]) -> None:
        """Show these jobs as ``display.mode`` says, until ``unwatch``; ``row_of`` reads the state of one."""

    def update(self) -> None:
        """Show what has changed; called about ten times a second."""

    def unwatch(self) -> None: ...

    def run_display(self, mode: str, every: int | None) -> Display:
        """The display of a single job that has the terminal for itself."""

    def answer(self, directory: Path) -> None:
        """Show the result of the sweep in ``directory``."""

    def error(self, error: TrainctlError) -> None: ...
