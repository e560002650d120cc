"""Cohen's kappa."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trainctl.registry import METRICS


@METRICS.register("cohen_kappa")
class CohenKappa:
    """Agreement of predicted and true classes beyond chance: 1 is perfect, 0 what chance gives.

    One minus the share of disagreements divided by that of predictions drawn at random, as often of each
    class as they are (Cohen, A Coefficient of Agreement for Nominal Scales, 1960). NaN where neither can
    disagree: all targets and predictions are of one class. The predicted class is the largest output; of
    equal ones the first.

    Args:
        weights: what a disagreement counts. null: each the same; linear, quadratic: the distance of the two
            class numbers, or its square, for classes in an order (Cohen, Weighted Kappa, 1968).

    Shape: outputs (N, classes), targets (N,).
    """

    task = "classification"
    lower_is_better = False

    def __init__(self, output_size: int, weights: Literal["linear", "quadratic"] | None = None) -> None:
        numbers = torch.arange(output_size, dtype=torch.float64)
        distance = (numbers[:, None] - numbers).abs()
        self.costs = {None: distance.sign(), "linear": distance, "quadratic": distance.square()}[weights]
        self.pairs: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.pairs is None:
            self.pairs = torch.zeros(self.costs.numel(), dtype=torch.int64, device=outputs.device)
        # bincount would wait for the device to learn how many there are.
        place = targets * len(self.costs) + outputs.argmax(1)
        self.pairs.index_add_(0, place, torch.ones_like(targets))

    def merge(self, other: CohenKappa) -> None:
        if other.pairs is not None:
            self.pairs = other.pairs.clone() if self.pairs is None else self.pairs + other.pairs

    def compute(self) -> float:
        if self.pairs is None:
            return float("nan")
        pairs = self.pairs.cpu().double().view_as(self.costs)
        by_chance = torch.outer(pairs.sum(1), pairs.sum(0)) / pairs.sum()
        possible = float((self.costs * by_chance).sum())
        return 1 - float((self.costs * pairs).sum()) / possible if possible else float("nan")
