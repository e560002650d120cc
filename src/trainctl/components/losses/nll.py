"""Negative log-likelihood for classification."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from trainctl.components.losses._target import ClassLoss
from trainctl.components.losses._target import class_weights as weights_of
from trainctl.registry import LOSSES, Positive


@LOSSES.register("nll")
class NLL(ClassLoss, nn.NLLLoss):
    """Mean negative log-likelihood of class numbers; the model gives log-probabilities (LogSoftmax).

    Args:
        class_weights: one weight a class, or balanced: the rarer a class, the more it counts.

    Shape: outputs (N, classes), targets (N,) int64 → scalar; outputs (N, classes, …), targets (N, …), of
    which those that are -100 are ignored.
    """

    takes_log_probabilities = True

    def __init__(
        self,
        class_counts: Tensor | None = None,
        class_weights: list[Positive] | Literal["balanced"] | None = None,
    ) -> None:
        super().__init__(weight=weights_of(class_weights, class_counts))
