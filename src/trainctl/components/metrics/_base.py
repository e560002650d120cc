"""What a metric is: sums and counts over a whole split, turned into a number at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from trainctl.data.readout import wide


class Metric(Protocol):
    """One number about a split, or one a class.

    ``update`` adds a batch and does not wait for the device; ``compute`` returns the number, exact for
    batches of any size, or the numbers by name. A new object is made for each evaluation. On several devices
    ``merge(other)`` adds the sums and counts of another object of the class, as if this one had got its own
    batches and then the other's. Attributes of the class that a run reads:

    - ``task``: classification or regression, the only one that the metric fits; both if it is absent.
    - ``lower_is_better``: whether lower values are better; False if absent.
    - ``several``: whether ``compute`` returns more than one number, which cannot rank runs; False if absent.
    """

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> float | Mapping[str, float]: ...


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

    def merge(self, other: Mean) -> None:
        if other.total is not None:
            self._add(other.total, other.count)

    def compute(self) -> float:
        return float(self.total) / self.count if self.total is not None else float("nan")

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What to average: numbers, or booleans for a share."""
        raise NotImplementedError

    def _add(self, total: Tensor, count: int) -> None:
        self.total = total if self.total is None else self.total + total
        self.count += count


class ClassCounts:
    """Three counts a class: the base of the metrics that compare predicted with true classes.

    The predicted class is the largest output; of equal ones the first. After the split, ``counted`` returns
    the samples of each class that were predicted correctly, its samples, and how often it was predicted.
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

    def merge(self, other: ClassCounts) -> None:
        if other.counts is not None:
            self.counts = other.counts.clone() if self.counts is None else self.counts + other.counts

    def counted(self) -> tuple[list[int], list[int], list[int]]:
        """Correct predictions, samples and predictions, each a list by class number."""
        if self.counts is None:
            empty = [0] * self.output_size
            return empty, empty, empty
        correct, samples, predictions = self.counts.tolist()
        return correct, samples, predictions
