"""The bases of metrics: sums and counts over a whole split, turned into a number at the end."""

from typing import Self

import torch
from torch import Tensor


def wide(device: torch.device) -> torch.dtype:
    """The type to sum in: float64, which only MPS lacks."""
    return torch.float32 if device.type == "mps" else torch.float64


class Mean:
    """Mean of one value a sample, or a target, over a split: the base of the plain metrics."""

    task = "regression"
    lower_is_better = True

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        values = self.values(outputs, targets)
        dtype = wide(values.device) if values.is_floating_point() else torch.int64
        self._add(values.sum(dtype=dtype), values.numel())

    def merge(self, other: Self) -> None:
        if other.total is not None:
            self._add(other.total, other.count)

    def compute(self) -> float:
        return float(self.total) / self.count if self.total is not None else float("nan")

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The values to average: numbers, or booleans for a share."""
        raise NotImplementedError

    def _add(self, total: Tensor, count: int) -> None:
        self.total = total if self.total is None else self.total + total
        self.count += count


class ClassCounts:
    """Three counts a class: the base of the metrics that compare predicted with true classes.

    The predicted class is the largest output; of equal ones the first.
    """

    task = "classification"
    lower_is_better = False

    def __init__(self, output_size: int) -> None:
        self.output_size = output_size
        self.counts: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.counts is None:
            self.counts = torch.zeros(3, self.output_size, dtype=torch.int64, device=outputs.device)
        predicted, one = outputs.argmax(1), torch.ones_like(targets)
        # bincount would wait for the device to learn how many classes there are.
        self.counts[0].index_add_(0, targets, (predicted == targets).to(targets.dtype))
        self.counts[1].index_add_(0, targets, one)
        self.counts[2].index_add_(0, predicted, one)

    def merge(self, other: Self) -> None:
        if other.counts is not None:
            self.counts = other.counts.clone() if self.counts is None else self.counts + other.counts

    def counted(self) -> tuple[list[int], list[int], list[int]]:
        """Correct predictions, samples and predictions, each a list by class number."""
        counts = torch.zeros(3, self.output_size) if self.counts is None else self.counts
        correct, samples, predictions = counts.tolist()
        return correct, samples, predictions
