"""Ctrl-C and SIGTERM: finish the step, then stop in order."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

from torch import Tensor

from trainctl.errors import InterruptedRunError, TerminatedRunError
from trainctl.training.interrupts import TERMINATING, handled
from trainctl.training.run import Hook, Run


class Signals(Hook):
    """Breaks the run off after the step in which a signal came: InterruptedRunError, TerminatedRunError.

    A second Ctrl-C is not waited for. Must be used inside :meth:`caught`, on the main thread.
    """

    name = "signals"

    def __init__(self) -> None:
        self.received: int | None = None

    def caught(self) -> AbstractContextManager[None]:
        """Catch the signals inside; the handlers of before are put back."""
        return handled((signal.SIGINT, *TERMINATING), self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number

    def step(self, run: Run, loss: Tensor) -> None:
        if self.received is not None:
            self._stop(run)

    def poll(self, run: Run) -> None:
        if self.received is not None:
            self._stop(run)

    def evaluated(self, run: Run, values: Any) -> None:
        if self.received is not None:
            self._stop(run)

    def _stop(self, run: Run) -> None:
        step = run.state.step
        if self.received in TERMINATING:
            run.control.stop(
                "terminated", TerminatedRunError(f"terminated at step {step}: the run was saved")
            )
        else:
            run.control.stop(
                "interrupted", InterruptedRunError(f"interrupted at step {step}: the run was saved")
            )
