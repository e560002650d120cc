"""Mean F1 score of the labels."""

from __future__ import annotations

from trainctl.components.metrics._labels import LabelCounts
from trainctl.registry import METRICS, Fraction


@METRICS.register("f1_macro")
class F1Macro(LabelCounts):
    """The mean of the labels' F1 scores, each label counting the same.

    A label that no sample has and that is never predicted is left out of the mean; one that is predicted only
    counts as 0. NaN where none is left.

    Args:
        threshold: a label is predicted from this probability on.

    Shape: outputs (N, labels), probabilities; targets (N, labels), 0 or 1.
    """

    def __init__(self, threshold: Fraction = 0.5) -> None:
        super().__init__(threshold)

    def compute(self) -> float:
        scores = [
            2 * correct / (samples + predictions)
            for correct, samples, predictions in self.counted()
            if samples + predictions
        ]
        return sum(scores) / len(scores) if scores else float("nan")
