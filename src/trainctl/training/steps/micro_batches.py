"""The step on a whole batch, computed in pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from trainctl.errors import ConfigError
from trainctl.registry.protocols import Criterion, Model, Optimizer
from trainctl.training.buffers import Buffers
from trainctl.training.hooks.guard import Guard
from trainctl.training.steps.accumulated import accumulate


class MicroBatches:
    """A step whose window is cut into pieces of at most ``size`` samples, as equal as possible.

    Where memory runs out while one is computed, the pieces are halved and the step begins again, with the
    same random numbers and buffers: nothing has been updated yet. They stay small from then on. What a model
    keeps in ordinary attributes is not put back, and memory that the optimizer's own step lacks is an error.

    Args:
        halved: called with the new size; None makes any lack of memory an error.
    """

    def __init__(self, size: int, halved: Callable[[int], None] | None = None) -> None:
        self.size, self.halved = size, halved
        self._buffers: tuple[Any, Buffers] | None = None

    def __call__(
        self,
        model: Model,
        criterion: Criterion,
        optimizer: Optimizer,
        inputs: Tensor,
        targets: Tensor,
        precision: AbstractContextManager[Any],
        *,
        guard: Guard | None = None,
    ) -> Tensor:
        """One step; returns the window's loss, or that of a refused piece, a scalar."""
        put_back = None if self.halved is None else self._kept(model, targets.device)
        while True:
            try:
                loss, accepted = accumulate(
                    model, criterion, optimizer, inputs, targets, precision, cut=self._cut, guard=guard
                )
                break
            except torch.OutOfMemoryError as error:
                if put_back is None:
                    raise
                size = min(self.size, len(targets)) // 2
                if not size:
                    raise ConfigError(
                        "the device has not enough memory for the step of one sample",
                        "use a smaller model, train.precision=bf16, or optim=sgd",
                    ) from error
            # Only here, behind the error, is the memory of what was computed free.
            optimizer.zero_grad()
            put_back()
            if targets.device.type == "cuda":
                torch.cuda.empty_cache()
            self.size = size
            if self.halved is not None:
                self.halved(size)
        if accepted and (guard is None or guard.accepts_gradients(loss)):
            optimizer.step()
        return loss

    def _cut(self, window: Tensor) -> Sequence[Tensor]:
        return torch.tensor_split(window, -(-len(window) // self.size))

    def _kept(self, model: Any, device: torch.device) -> Callable[[], None]:
        """Puts back what a forward pass changes."""
        if self._buffers is None or self._buffers[0] is not model:
            self._buffers = model, Buffers(model)
        buffers = self._buffers[1]
        copies, state = buffers.copied(), torch.get_rng_state()
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def put_back() -> None:
            buffers.put_back(copies)
            torch.set_rng_state(state)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)

        return put_back
