"""Cross-entropy for classification."""

from __future__ import annotations

from torch import nn

from trainctl.losses._target import ClassNumberLoss
from trainctl.ranges import Probability
from trainctl.registry import LOSSES


@LOSSES.register("cross_entropy")
class CrossEntropy(nn.CrossEntropyLoss, ClassNumberLoss):
    """Mean cross-entropy of softmax(outputs) against class numbers.

    Args:
        label_smoothing: share of each target spread over all classes.

    Shape: outputs (N, classes), targets (N,) int64 → scalar.
    """

    def __init__(self, label_smoothing: Probability = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
