"""Steps ReduceLROnPlateau."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainctl.training.run import Hook, Run


class Plateau(Hook):
    """Steps the scheduler with the monitored value of each evaluation, and not after each step."""

    name = "plateau"

    def __init__(self, scheduler: ReduceLROnPlateau, monitor: str) -> None:
        self.scheduler, self.monitor = scheduler, monitor
        self.initial_lrs = [group["lr"] for group in scheduler.optimizer.param_groups]

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        if self.monitor in values:
            self.scheduler.step(values[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        return {**self.scheduler.state_dict(), "initial_lrs": self.initial_lrs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.initial_lrs = state["initial_lrs"]
        self.scheduler.load_state_dict({key: value for key, value in state.items() if key != "initial_lrs"})
