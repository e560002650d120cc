"""F1 score."""

from __future__ import annotations

from typing import Literal

from trainctl.components.metrics._base import ClassCounts
from trainctl.registry import METRICS


@METRICS.register("f1")
class F1(ClassCounts):
    """Harmonic mean of precision and recall of each class, averaged over the classes.

    For one class it is 2 × correct / (samples + predictions) (van Rijsbergen, Information Retrieval, 1979).
    A class without samples and predictions is left out of the mean; one with predictions only counts as 0.

    Args:
        average: macro counts each class the same, weighted counts it by its samples, micro adds up the counts
            of all classes first and equals the accuracy.

    Shape: outputs (N, classes), targets (N,).
    """

    def __init__(self, output_size: int, average: Literal["macro", "micro", "weighted"] = "macro") -> None:
        super().__init__(output_size)
        self.average = average

    def compute(self) -> float:
        correct, samples, predictions = self.counted()
        total = sum(samples)
        if not total:
            return float("nan")
        if self.average == "micro":
            return 2 * sum(correct) / (total + sum(predictions))
        scores = [
            (2 * hits / (held + named), held)
            for hits, held, named in zip(correct, samples, predictions, strict=True)
            if held + named
        ]
        if self.average == "weighted":
            return sum(score * held for score, held in scores) / total
        return sum(score for score, _ in scores) / len(scores)
