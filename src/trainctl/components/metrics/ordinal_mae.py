"""Mean absolute error of classes in an order."""

from __future__ import annotations

from torch import Tensor

from trainctl.components.metrics._base import Mean
from trainctl.registry import METRICS


@METRICS.register("ordinal_mae")
class OrdinalMAE(Mean):
    """How many classes the prediction is off, on average: for classes in an order.

    The predicted class is the largest output; of equal ones the first. Every step of the scale counts the
    same (Baccianella, Esuli and Sebastiani, Evaluation Measures for Ordinal Regression, 2009).

    Shape: outputs (N, classes), targets (N,).
    """

    task = "classification"

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) - targets).abs()
