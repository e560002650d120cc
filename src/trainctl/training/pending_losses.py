"""Losses that are read some time after their step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def kept(loss: Tensor) -> Tensor | float:
    """What to keep of a loss: the tensor where reading it would wait for a device, else its value.

    On the CPU there is nothing to wait for, and a small tensor that is kept there keeps the C library from
    using the memory again that large ones around it had: the heap would grow by about a batch a step.
    """
    return loss.item() if loss.is_cpu else loss


def fetched(losses: Sequence[Tensor | float]) -> list[float]:
    """The values of what was kept, of a device's in one transfer."""
    tensors = [loss for loss in losses if isinstance(loss, Tensor)]
    values = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(values) if isinstance(loss, Tensor) else loss for loss in losses]


class PendingLosses(Generic[T]):
    """Losses that stay on the device until they are fetched together, each with what is known of its step."""

    def __init__(self) -> None:
        self._steps: list[T] = []
        self._losses: list[Tensor | float] = []
        self._fetched_at = time.monotonic()

    def add(self, step: T, loss: Tensor) -> None:
        """Keep the loss of ``step``."""
        self._steps.append(step)
        self._losses.append(kept(loss))

    def due(self, most: int, seconds: float) -> bool:
        """Whether ``most`` losses are kept, or the last ones were fetched more than ``seconds`` ago."""
        return len(self._losses) >= most or time.monotonic() - self._fetched_at > seconds

    def take(self) -> list[tuple[T, float]]:
        """Fetch and forget all of them."""
        taken = list(zip(self._steps, fetched(self._losses), strict=True))
        self._steps.clear()
        self._losses.clear()
        self._fetched_at = time.monotonic()
        return taken
