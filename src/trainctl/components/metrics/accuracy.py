"""Accuracy."""

from __future__ import annotations

from torch import Tensor

from trainctl.components.metrics._base import Mean
from trainctl.registry import METRICS


@METRICS.register("accuracy")
class Accuracy(Mean):
    """Share of samples whose largest output is the target's.

    Shape: outputs (N, classes), targets (N,).
    """

    task = "classification"
    lower_is_better = False

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == targets
