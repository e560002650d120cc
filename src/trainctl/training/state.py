"""What a run is at an instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class State:
    """Where a run stands. Together with the tensors and the random states a checkpoint is made of this.

    Attributes:
        step: optimizer steps taken.
        epoch: epochs completed, their evaluation included; the epoch being trained is ``epoch + 1`` as
            people count.
        position: samples of the running epoch already used. (epoch, position) is the data cursor: with the
            seed it determines every batch still to come.
        evaluated: the step after which the last evaluation was made.
        lr: learning rate of the step just taken.
        best: step, epoch and metrics of the best evaluation so far.
        last: the same of the newest one.
        stale: evaluations since the last improvement that counts, and
        reference: the value they are measured by.
        stop: why training ends before its last step, or None.
        skipped: steps that were not taken because of values that are not finite.
        epoch_seconds, epoch_samples: training time and samples of the running epoch.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    evaluated: int = 0
    lr: float = 0.0
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    stale: int = 0
    reference: float | None = None
    stop: str | None = None
    skipped: int = 0
    epoch_seconds: float = 0.0
    epoch_samples: int = 0

    def stepped(self, samples: int, lr: float) -> None:
        """Count a step on ``samples`` samples, taken at the learning rate ``lr``."""
        self.step += 1
        self.position += samples
        self.epoch_samples += samples
        self.lr = lr

    @property
    def where(self) -> dict[str, int]:
        """Step and epoch as they are recorded: the epoch being trained, or just completed, from 1."""
        return {"step": self.step, "epoch": self.epoch + 1 if self.position else max(1, self.epoch)}

    def values(self) -> dict[str, Any]:
        """All of it as plain values."""
        kept = vars(self).items()
        return {name: dict(value) if isinstance(value, dict) else value for name, value in kept}

    def take(self, values: dict[str, Any]) -> None:
        """Become what ``values`` says. Raises KeyError for one that is missing."""
        for name in vars(self):
            setattr(self, name, values[name])
