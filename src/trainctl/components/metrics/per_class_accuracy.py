"""Accuracy of each class."""

from __future__ import annotations

from trainctl.components.metrics._base import ClassCounts
from trainctl.registry import METRICS


@METRICS.register("per_class_accuracy")
class PerClassAccuracy(ClassCounts):
    """Share of each class's samples that are predicted correctly (its recall), one value a class.

    A class without a sample in the split has no value.

    Shape: outputs (N, classes), targets (N,).
    """

    several = True

    def __init__(self, output_size: int, classes: tuple[str, ...]) -> None:
        super().__init__(output_size)
        self.classes = classes

    def compute(self) -> dict[str, float]:
        correct, samples, _ = self.counted()
        return {
            name: hits / total
            for name, hits, total in zip(self.classes, correct, samples, strict=True)
            if total
        }
