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


class Transfer:
    """Values on their way from a device, which goes on meanwhile: only who reads them waits."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._event = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.current_stream(values.device).record_event()
        else:
            self._values = values.detach().to("cpu", copy=True)

    @property
    def has_arrived(self) -> bool:
        return self._event is None or bool(self._event.query())

    def read(self) -> Tensor:
        """The values on the CPU, as they were when they were sent."""
        if self._event is not None:
            self._event.synchronize()
        return self._values


class PendingLosses(Generic[T]):
    """Losses that stay on the device until they are fetched together, each with what is known of its step.

    To wait for them would let the device run idle: its queue would be empty when they are there.
    """

    def __init__(self) -> None:
        self._steps: list[T] = []
        self._losses: list[Tensor | float] = []
        self._coming: tuple[list[T], Transfer] | None = None
        self._fetched_at = time.monotonic()

    def add(self, step: T, loss: Tensor) -> None:
        """Keep the loss of ``step``."""
        self._steps.append(step)
        self._losses.append(kept(loss))

    def arrived(self, most: int, seconds: float) -> list[tuple[T, float]]:
        """Losses that have come over. The next are sent when ``most`` are kept, or after ``seconds``."""
        if self._coming is None:
            if len(self._losses) < most and time.monotonic() - self._fetched_at <= seconds:
                return []
            self._fetched_at = time.monotonic()
            sent = [loss for loss in self._losses if isinstance(loss, Tensor)]
            if not sent or len(sent) < len(self._losses):
                return self.take()
            self._coming = self._steps, Transfer(torch.stack(sent))
            self._steps, self._losses = [], []
        return self._came() if self._coming[1].has_arrived else []

    def take(self) -> list[tuple[T, float]]:
        """Fetch and forget all of them; waits for the device."""
        came = self._came()
        taken = list(zip(self._steps, fetched(self._losses), strict=True))
        self._steps, self._losses = [], []
        self._fetched_at = time.monotonic()
        return came + taken

    def _came(self) -> list[tuple[T, float]]:
        if self._coming is None:
            return []
        (steps, transfer), self._coming = self._coming, None
        return list(zip(steps, transfer.read().tolist(), strict=True))
