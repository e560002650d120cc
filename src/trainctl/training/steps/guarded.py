"""A rung's step with a look at the loss before anything is updated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from trainctl.registry.protocols import Criterion, Model, Optimizer
from trainctl.training.hooks.guard import Guard, StepRefusedError


def guarded_rung(step: Callable[..., Tensor], guard: Guard) -> Callable[..., Tensor]:
    """A rung's step with a criterion whose loss the guard checks before anything is updated."""

    def guarded(
        model: Model,
        criterion: Criterion,
        optimizer: Optimizer,
        inputs: Tensor,
        targets: Tensor,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        def checked(*arguments: Any) -> Tensor:
            loss: Tensor = criterion(*arguments)
            if not guard.accepts_loss(loss):
                raise StepRefusedError(loss.detach())
            return loss

        try:
            return step(model, checked, optimizer, inputs, targets, precision)
        except StepRefusedError as refused:
            return refused.loss

    return guarded
