"""Step decay."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainctl.registry import SCHEDULERS, Count, Positive


@SCHEDULERS.register("step")
def step(optimizer: Optimizer, steps_per_epoch: int, epochs: Count = 10, gamma: Positive = 0.1) -> LambdaLR:
    """lr × gamma after every ``epochs`` epochs. As torch.optim.lr_scheduler.StepLR, from the global step.

    Args:
        epochs: how long a learning rate is kept.
        gamma: what it is multiplied by.
    """
    length = epochs * steps_per_epoch
    return LambdaLR(optimizer, lambda number: float(gamma ** (number // length)))
