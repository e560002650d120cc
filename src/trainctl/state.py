"""What a run is at an instant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class State:
    """Where a run stands.

    Attributes:
        step: optimizer steps taken.
        epoch: epochs completed; the epoch being trained is ``epoch + 1`` as people count.
        position: samples of the running epoch already used. (epoch, position) is the data cursor: with the
            seed it determines every batch still to come.
        lr: learning rate of the step just taken.
        best: step, epoch and metrics of the best evaluation so far.
        last: the same of the newest one.
        stale: evaluations since the best one.
        stop: why training ends before its last step, or None.
        epoch_seconds, epoch_samples: training time and samples of the running epoch.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    lr: float = 0.0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    stale: int = 0
    stop: str | None = None
    epoch_seconds: float = field(default=0.0, compare=False)
    epoch_samples: int = field(default=0, compare=False)

    @property
    def where(self) -> dict[str, int]:
        """Step and epoch as they are recorded: the epoch being trained, or just completed, from 1."""
        return {"step": self.step, "epoch": self.epoch + 1 if self.position else max(1, self.epoch)}
