"""F1 score of all labels together."""

from __future__ import annotations

from trainctl.components.metrics._labels import LabelCounts
from trainctl.registry import METRICS, Fraction


@METRICS.register("f1_micro")
class F1Micro(LabelCounts):
    """F1 of all decisions together: the counts of all labels are added up first.

    It is 2 × correct / (samples + predictions) (van Rijsbergen, Information Retrieval, 1979); NaN where no
    label was there and none predicted.

    Args:
        threshold: a label is predicted from this probability on.

    Shape: outputs (N, labels), probabilities; targets (N, labels), 0 or 1.
    """

    def __init__(self, threshold: Fraction = 0.5) -> None:
        super().__init__(threshold)

    def compute(self) -> float:
        correct, samples, predictions = (
            sum(each) for each in zip(*self.counted() or [(0, 0, 0)], strict=True)
        )
        return 2 * correct / (samples + predictions) if samples + predictions else float("nan")
