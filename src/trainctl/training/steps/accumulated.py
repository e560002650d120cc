"""One optimizer step from several batches."""

from __future__ import annotations

from contextlib import AbstractContextManager
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
    batch_size: int,
    guard: Guard | None = None,
) -> Tensor:
    """One step on a window of batches of ``batch_size``; one batch's activations are in memory at a time.

    Each batch counts by what it holds: its share of the window's samples, or of their weights where the
    criterion weighs classes. The gradient is that of the whole window at once, also when the last batch is
    smaller. A ``guard`` may refuse the loss of a batch or the gradients: the step is left out then. Returns
    the window's loss, a scalar that is not waited for; where a batch was refused, that batch's.
    """
    weigh = getattr(criterion, "batch_weight", len)
    total, window_loss = weigh(targets), torch.zeros((), device=targets.device)
    optimizer.zero_grad()
    for batch, answers in zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True):
        with precision:
            loss = criterion(model(batch), answers)
        if guard is not None and not guard.accepts_loss(loss):
            return loss.detach()  # type: ignore[no-any-return]
        loss = loss * (weigh(answers) / total)
        loss.backward()
        window_loss += loss.detach()
    if guard is None or guard.accepts_gradients(window_loss):
        optimizer.step()
    return window_loss
