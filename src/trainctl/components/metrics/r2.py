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
    where the plain sum of squares cancels. Where the targets of an output do not vary it is 1 for outputs
    that are all right, else 0, as in scikit-learn; of a single sample it is NaN.

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
        if self.count < 2:
            return float("nan")
        error, deviation = torch.as_tensor(self.error), torch.as_tensor(self.deviation)
        scores = 1 - error / deviation
        constant = (deviation == 0) & ~error.isnan()
        return float(torch.where(constant, (error == 0).to(scores), scores).mean())
