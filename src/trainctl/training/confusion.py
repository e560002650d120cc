"""Which class is taken for which: counted while the best checkpoint is tested, drawn when the run ends."""

from __future__ import annotations

import os

import torch
from torch import Tensor

_MOST_CLASSES = 1000


def pictures_wanted(asked: bool) -> bool:
    """Whether a run draws pictures: ``TRAINCTL_PICTURES=0`` turns them off for all runs of a shell."""
    return asked and os.environ.get("TRAINCTL_PICTURES", "") not in ("0", "false")


class Confusion:
    """Counts predicted classes by true class; a metric that adds no value of its own.

    ``update`` does not wait for the device and never raises: what cannot be counted has no picture.

    Shape: outputs (N, classes), targets (N,).
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._counts: Tensor | None = None
        self._fits = classes <= _MOST_CLASSES

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self._fits = self._fits and outputs.shape[1:] == (self.classes,) and targets.dim() == 1
        if not self._fits:
            return
        if self._counts is None:
            self._counts = torch.zeros(self.classes**2, dtype=torch.int64, device=outputs.device)
        self._counts.index_add_(0, targets * self.classes + outputs.argmax(1), torch.ones_like(targets))

    def compute(self) -> dict[str, float]:
        return {}

    @property
    def counts(self) -> list[list[int]] | None:
        """Samples by true class (rows) and predicted class (columns); None where nothing was counted."""
        if self._counts is None or not self._fits:
            return None
        counts: list[list[int]] = self._counts.view(self.classes, self.classes).tolist()
        return counts
