"""Exponential decay."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainctl.registry import SCHEDULERS, Positive


@SCHEDULERS.register("exponential")
def exponential(optimizer: Optimizer, steps_per_epoch: int, gamma: Positive = 0.95) -> LambdaLR:
    """lr × gamma after each epoch. As torch.optim.lr_scheduler.ExponentialLR, from the global step.

    Args:
        gamma: what the learning rate is multiplied by.
    """
    return LambdaLR(optimizer, lambda number: float(gamma ** (number // steps_per_epoch)))
