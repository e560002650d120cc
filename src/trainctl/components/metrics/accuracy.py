"""Accuracy."""

from __future__ import annotations

from torch import Tensor

from trainctl.registry import METRICS


@METRICS.register("accuracy")
class Accuracy:
    """Share of samples whose largest output is the target's.

    Shape: outputs (N, classes), targets (N,).
    """

    task = "classification"
    lower_is_better = False

    def __init__(self) -> None:
        self.correct: Tensor | None = None
        self.count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        correct = (outputs.argmax(1) == targets).sum()
        self.correct = correct if self.correct is None else self.correct + correct
        self.count += len(targets)

    def compute(self) -> float:
        return int(self.correct) / self.count if self.correct is not None else float("nan")
