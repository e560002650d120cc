"""Polynomial decay with linear warm-up."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainctl.components.schedulers._shapes import warm_then
from trainctl.registry import SCHEDULERS, NonNegativeInt, Positive, Probability


@SCHEDULERS.register("polynomial")
def polynomial(
    optimizer: Optimizer,
    total_steps: int,
    power: Positive = 2.0,
    warmup: NonNegativeInt = 0,
    final: Probability = 0.0,
) -> LambdaLR:
    """lr × (1 - progress) ** power, down to lr × final over the whole run, after a linear warm-up.

    Args:
        power: 1 is a straight line; larger falls faster at first.
        warmup: steps over which the learning rate rises to lr.
        final: the last step's learning rate as a share of lr.
    """
    return warm_then(optimizer, total_steps, warmup, final, lambda progress: float((1 - progress) ** power))
