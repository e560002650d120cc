"""Balanced accuracy."""

from __future__ import annotations

from trainctl.components.metrics._base import ClassCounts
from trainctl.registry import METRICS


@METRICS.register("balanced_accuracy")
class BalancedAccuracy(ClassCounts):
    """Mean over the classes of the share of their samples that are predicted correctly.

    Chance gives 1 / classes however unequal the classes are (Brodersen et al., The Balanced Accuracy and Its
    Posterior Distribution, 2010). A class without a sample in the split is left out of the mean.

    Shape: outputs (N, classes), targets (N,).
    """

    def __init__(self, output_size: int) -> None:
        super().__init__(output_size)

    def compute(self) -> float:
        correct, samples, _ = self.counted()
        recalls = [hits / total for hits, total in zip(correct, samples, strict=True) if total]
        return sum(recalls) / len(recalls) if recalls else float("nan")
