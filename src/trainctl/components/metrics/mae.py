"""Mean absolute error."""

from __future__ import annotations

from torch import Tensor

from trainctl.components.metrics._base import Mean
from trainctl.registry import METRICS


@METRICS.register("mae")
class MeanAbsoluteError(Mean):
    """Mean of the absolute differences over all values.

    Shape: outputs and targets (N, outputs).
    """

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs()
