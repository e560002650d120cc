"""Top-k accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

from trainctl.components.metrics._base import Mean
from trainctl.errors import ConfigError
from trainctl.registry import METRICS, Count


@METRICS.register("top_k_accuracy")
class TopKAccuracy(Mean):
    """Share of samples whose target is among the k largest outputs.

    Of equal outputs the lower class number comes first, as in accuracy, which is the case k=1. Top-5 error is
    1 minus this (Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015).

    Args:
        k: the number of largest outputs; below the number of classes.

    Shape: outputs (N, classes), targets (N,).

    Raises ConfigError when k is not below the number of classes: every model would reach 1.
    """

    task = "classification"
    lower_is_better = False

    def __init__(self, output_size: int, k: Count = 5) -> None:
        if k >= output_size:
            raise ConfigError(
                f"train.metrics.top_k_accuracy.k={k}: always 1 with {output_size} classes",
                f"use a smaller k, e.g. {{top_k_accuracy: {{k: {output_size - 1}}}}}"
                if output_size > 1
                else "leave top_k_accuracy out",
            )
        super().__init__()
        self.k = k

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = outputs.gather(1, targets[:, None])
        numbers = torch.arange(outputs.shape[1], device=outputs.device)
        # Counted instead of sorted, which leaves the order of equal outputs to the device; written as "not
        # at most", so that NaN outputs count against the model.
        before = ~(outputs <= wanted) | ((outputs == wanted) & (numbers < targets[:, None]))
        return before.sum(1) < self.k
