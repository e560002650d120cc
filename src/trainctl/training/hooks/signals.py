"""Ctrl-C and SIGTERM: finish the step, then stop in order."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import FrameType

from torch import Tensor

from trainctl.errors import InterruptedRunError, TerminatedRunError
from trainctl.training.interrupts import TERMINATING, handled
from trainctl.training.run import Hook, Run


class Signals(Hook):
    """Ends the run after the step in which a signal came, with InterruptedRunError or TerminatedRunError.

    A second Ctrl-C ends it at once. Must be used inside :meth:`caught`, on the main thread.
    """

    name = "signals"

    def __init__(self) -> None:
        self.received: int | None = None

    def caught(self) -> AbstractContextManager[None]:
        """Catch the signals inside; the earlier handlers are restored."""
        return handled((signal.SIGINT, *TERMINATING), self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number

    def poll(self, run: Run) -> None:
        if self.received is not None:
            error = TerminatedRunError if self.received in TERMINATING else InterruptedRunError
            # Which step is the last one is not yet known: several devices have to agree on it.
            run.control.stop(error.status, error(f"{error.status}: the run was saved"))

    def step(self, run: Run, loss: Tensor) -> None:
        self.poll(run)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self.poll(run)
