"""Steps a scheduler that waits for a plateau."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainctl.hooks._base import Hook
from trainctl.loop import Run


class Plateau(Hook):
    """Shows each evaluation's monitored value to the scheduler: its place is there, not after each step."""

    def __init__(self, scheduler: ReduceLROnPlateau, monitor: str) -> None:
        self.scheduler, self.monitor = scheduler, monitor

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        if self.monitor in values:
            self.scheduler.step(values[self.monitor])
