"""Times some steps and an evaluation, then ends the run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from trainctl.training.run import Hook, Run

_WARM_UP = 5
_ENOUGH_SECONDS = 1.0


class Timing(Hook):
    """Measures steps after the first few, for about a second, and the evaluation after them.

    Attributes:
        step_seconds: the median of the steps measured.
        evaluation_seconds: of the validation split, 0 without one.
    """

    name = "timing"

    most = 200

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []
        self.step_seconds = self.evaluation_seconds = 0.0

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def start(self, run: Run) -> None:
        self._times = [self._now()]

    def step(self, run: Run, loss: Tensor) -> None:
        self._times.append(self._now())
        if len(self._times) > _WARM_UP + 3 and self._times[-1] - self._times[_WARM_UP] > _ENOUGH_SECONDS:
            run.control.stop("measured")

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        now = self._now()
        first = min(_WARM_UP, max(0, len(self._times) - 2))
        times = self._times[first:]
        self.step_seconds = statistics.median([after - before for before, after in pairwise(times)])
        if run.val_loader is not None:
            self.evaluation_seconds = now - self._times[-1]
        run.control.stop("measured")
