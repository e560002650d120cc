"""Coefficient of determination."""

from __future__ import annotations

import torch
from torch import Tensor

from trainctl.data.readout import wide
from trainctl.registry import METRICS


@METRICS.register("r2")
class R2:
    """1 - (squared error) / (squared deviation from the split's mean), averaged over the outputs.

    Deviations of parts are combined by the update of Chan, Golub and LeVeque (1983), which stays exact
    where the plain sum of squares cancels. An output whose targets do not vary has no R²: the result is NaN.

    Shape: outputs and targets (N, outputs).
    """

    task = "regression"
    lower_is_better = False

    def __init__(self) -> None:
        self.count = 0
        self.error: Tensor | float = 0.0
        self.mean: Tensor | float = 0.0
        self.deviation: Tensor | float = 0.0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        outputs, targets = outputs.to(wide(outputs.device)), targets.to(wide(outputs.device))
        mean = targets.mean(0)
        error, deviation = (outputs - targets).square().sum(0), (targets - mean).square().sum(0)
        self._add(len(targets), error, mean, deviation)

    def merge(self, other: R2) -> None:
        if other.count:
            self._add(other.count, other.error, other.mean, other.deviation)

    def _add(self, size: int, error: Tensor | float, mean: Tensor | float, deviation: Tensor | float) -> None:
        total, shift = self.count + size, mean - self.mean
        self.error = self.error + error
        self.deviation = self.deviation + deviation + shift**2 * (self.count * size / total)
        self.mean = self.mean + shift * (size / total)
        self.count = total

    def compute(self) -> float:
        if not isinstance(self.deviation, Tensor):
            return float("nan")
        scores = 1 - self.error / self.deviation
        return float(torch.where(self.deviation > 0, scores, torch.nan).mean())
