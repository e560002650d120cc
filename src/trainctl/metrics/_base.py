"""What a metric is: sums and counts over a whole split, turned into a number at the end."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Metric(Protocol):
    """One number about a split.

    ``update`` adds a batch and does not wait for the device; ``compute`` gives the number, exact for
    batches of any size. A new object is made for each evaluation.
    """

    def update(self, outputs: Tensor, targets: Tensor) -> None: ...

    def compute(self) -> float: ...


def wide(device: torch.device) -> torch.dtype:
    """The type to sum in: float64, which only MPS lacks."""
    return torch.float32 if device.type == "mps" else torch.float64


class MeanOverValues:
    """Mean of something over all values of a split: the base of the plain regression metrics."""

    task = "regression"

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        total = self.values(outputs, targets).sum(dtype=wide(outputs.device))
        self.total = total if self.total is None else self.total + total
        self.count += targets.numel()

    def compute(self) -> float:
        return float(self.total) / self.count if self.total is not None else float("nan")

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What to average, of the shape of ``targets``."""
        raise NotImplementedError
