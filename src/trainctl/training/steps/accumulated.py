"""One optimizer step from several batches."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from trainctl.registry.protocols import Criterion, Model, Optimizer


def accumulated_step(
    model: Model,
    criterion: Criterion,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    precision: AbstractContextManager[Any],
    *,
    batch_size: int,
) -> Tensor:
    """One step on a window of batches of ``batch_size``; one batch's activations are in memory at a time.

    Each batch counts by what it really holds: its share of the window's samples, or of their weights where
    the criterion weighs classes. The gradient is that of the whole window at once, also when the last batch
    is smaller. Returns the window's loss, a scalar that is not waited for.
    """
    weigh = getattr(criterion, "batch_weight", len)
    total, window_loss = weigh(targets), torch.zeros((), device=targets.device)
    optimizer.zero_grad()
    for batch, answers in zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True):
        with precision:
            loss = criterion(model(batch), answers) * (weigh(answers) / total)
        loss.backward()
        window_loss += loss.detach()
    optimizer.step()
    return window_loss
