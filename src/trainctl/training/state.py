"""The state of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainctl.registry.protocols import Batch, Cursor


@dataclass
class State:
    """Progress of a run. With the tensors and the random states it makes up a checkpoint.

    Attributes:
        step: optimizer steps taken.
        epoch: epochs whose batches have all been used; people call the one being trained ``epoch + 1``.
        position: samples of the running epoch that have been used. (epoch, position) is the data cursor.
        evaluated: the step of the newest evaluation.
        lr: learning rate of the newest step.
        best: step, epoch and metrics of the best evaluation so far.
        last: the same of the newest evaluation.
        num_bad_epochs: evaluations since the last improvement that resets the patience.
        best_value: the monitored value of that improvement.
        stop: why training ends before its last step, or None.
        skipped: steps left out because a loss or a gradient was not finite.
        epoch_seconds, epoch_samples: training time and samples of the running epoch.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    evaluated: int = 0
    lr: float = 0.0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    num_bad_epochs: int = 0
    best_value: float | None = None
    stop: str | None = None
    skipped: int = 0
    epoch_seconds: float = 0.0
    epoch_samples: int = 0

    @property
    def cursor(self) -> Cursor:
        """Where the next batch begins."""
        return Cursor(self.epoch, self.position)

    def stepped(self, batch: Batch, lr: float) -> None:
        """Count a step on ``batch``, taken at the learning rate ``lr``."""
        self.step += 1
        self.epoch, self.position = batch.cursor
        self.epoch_samples += batch.count
        self.lr = lr

    @property
    def evaluation_due(self) -> bool:
        """Whether an epoch has ended and its evaluation is still to come."""
        return self.position == 0 and self.evaluated < self.step

    @property
    def epoch_number(self) -> int:
        """The epoch of the newest step, from 1."""
        return self.epoch + 1 if self.position else max(1, self.epoch)

    @property
    def speed(self) -> float:
        """Training samples a second in the running epoch; 0 before its first step."""
        return self.epoch_samples / self.epoch_seconds if self.epoch_seconds else 0.0

    @property
    def where(self) -> dict[str, int]:
        """Step and epoch as they are recorded."""
        return {"step": self.step, "epoch": self.epoch_number}

    def state_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        kept = vars(self).items()
        return {name: dict(value) if isinstance(value, dict) else value for name, value in kept}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Take over ``values``. Raises KeyError for a missing one."""
        for name in vars(self):
            setattr(self, name, values[name])
