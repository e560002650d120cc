"""Says it where steps take much longer than when the number of threads was chosen."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor

from trainctl.training.run import Hook, Run

_WINDOW, _WINDOWS = 16, 3
_SLOW = 4.0


class SlowSteps(Hook):
    """Compares the steps with the time that was measured, and announces it once.

    The number of threads stays: another one would change the last bits of what follows.

    Args:
        threads: how many were chosen.
        seconds: of a step, as measured then.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        self._threads, self._seconds = threads, seconds
        self._steps = self._slow = 0
        self._since = self._last = 0.0

    def start(self, run: Run) -> None:
        self._steps, self._since = 0, time.perf_counter()

    def step(self, run: Run, loss: Tensor) -> None:
        self._steps += 1
        self._last = time.perf_counter()
        if self._steps < _WINDOW or self._slow == _WINDOWS:
            return
        times = (self._last - self._since) / _WINDOW / self._seconds
        self._slow = self._slow + 1 if times > _SLOW else 0
        self._steps, self._since = 0, self._last
        if self._slow == _WINDOWS:
            what = f"steps take {times:.0f} times as long as when threads={self._threads} was measured"
            remedy = "the machine does other work; threads=1 is disturbed less"
            run.announce("slow_steps", f"{what}: {remedy}", what)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self._since += time.perf_counter() - self._last  # the evaluation is no step
