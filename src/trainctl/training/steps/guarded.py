"""The plain step with a look at the loss and the gradients before the optimizer moves anything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from trainctl.registry.protocols import Criterion, Model, Optimizer
from trainctl.training.hooks.guard import Guard, StepRefusedError


def guarded_step(
    model: Model,
    criterion: Criterion,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    precision: AbstractContextManager[Any],
    *,
    guard: Guard,
) -> Tensor:
    """The plain step, left out where the guard refuses its loss or its gradients; returns the loss, a scalar.

    The loss is looked at after the backward pass: on several devices it is added up meanwhile. Raises
    NotFiniteError where no more steps may be left out.
    """
    with precision:
        loss = criterion(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    if guard.accepts_loss(loss) and guard.accepts_gradients(loss):
        optimizer.step()
    return loss.detach()  # type: ignore[no-any-return]


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
