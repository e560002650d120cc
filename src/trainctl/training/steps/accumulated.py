"""One optimizer step from several batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from trainctl.registry.protocols import Criterion, Model, Optimizer
from trainctl.training.hooks.guard import Guard


def accumulated_step(
    model: Model,
    criterion: Criterion,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    precision: AbstractContextManager[Any],
    *,
    cut: Callable[[Tensor], Sequence[Tensor]],
    guard: Guard | None = None,
) -> Tensor:
    """One step on a window that ``cut`` cuts into batches; one batch's activations are in memory at a time.

    The step is left out where a ``guard`` refuses a loss or the gradients. Returns the window's loss, or that
    of a refused batch: a scalar that is not waited for.
    """
    loss, accepted = accumulate(model, criterion, optimizer, inputs, targets, precision, cut=cut, guard=guard)
    if accepted and (guard is None or guard.accepts_gradients(loss)):
        optimizer.step()
    return loss


def accumulate(
    model: Model,
    criterion: Criterion,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    precision: AbstractContextManager[Any],
    *,
    cut: Callable[[Tensor], Sequence[Tensor]],
    guard: Guard | None = None,
) -> tuple[Tensor, bool]:
    """The gradients of such a step; returns its loss, and whether the ``guard`` accepts all losses.

    Each batch counts by its share of the window's samples, or of their weights where the criterion weighs
    targets, so that the gradient is that of the whole window.
    """
    weigh = getattr(criterion, "batch_weight", len)
    total, window_loss = weigh(targets), torch.zeros((), device=targets.device)
    optimizer.zero_grad()
    batches = list(zip(cut(inputs), cut(targets), strict=True))
    for number, (batch, answers) in enumerate(batches, 1):
        # On several devices the gradients travel once, with the last batch.
        unsent = nullcontext if number == len(batches) else getattr(model, "no_sync", nullcontext)
        with unsent():
            with precision:
                loss = criterion(model(batch), answers)
            share = weigh(answers) / total
            if isinstance(share, Tensor):
                # A batch whose targets are all ignored has no loss.
                loss = loss.where(share != 0, 0.0)
            if guard is not None and not guard.accepts_loss(loss):
                return loss.detach(), False
            loss = loss * share
            loss.backward()
        window_loss += loss.detach()
    return window_loss, True
