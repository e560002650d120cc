"""Cross-entropy for classification."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from trainctl.components.losses._target import ClassLoss
from trainctl.components.losses._target import class_weights as weights_of
from trainctl.registry import LOSSES, Positive, Probability


@LOSSES.register("cross_entropy")
class CrossEntropy(ClassLoss, nn.CrossEntropyLoss):
    """Mean cross-entropy of softmax(outputs) against class numbers.

    Args:
        class_weights: one weight a class, or balanced: the rarer a class, the more it counts.
        label_smoothing: share of each target spread over all classes.

    Shape: outputs (N, classes), targets (N,) int64 → scalar; outputs (N, classes, …), targets (N, …), of
    which those that are -100 are ignored.
    """

    def __init__(
        self,
        class_counts: Tensor | None = None,
        class_weights: list[Positive] | Literal["balanced"] | None = None,
        label_smoothing: Probability = 0.0,
    ) -> None:
        super().__init__(weight=weights_of(class_weights, class_counts), label_smoothing=label_smoothing)
