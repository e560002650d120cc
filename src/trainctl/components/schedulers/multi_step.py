"""Step decay at named epochs."""

from __future__ import annotations

from bisect import bisect_right

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainctl.errors import ConfigError
from trainctl.registry import SCHEDULERS, Count, Positive


@SCHEDULERS.register("multi_step")
def multi_step(
    optimizer: Optimizer,
    steps_per_epoch: int,
    milestones: list[Count] = [10, 15],  # noqa: B006 - read only; a list is what a config gives
    gamma: Positive = 0.1,
) -> LambdaLR:
    """lr × gamma when each of the named epochs is complete. As torch.optim.lr_scheduler.MultiStepLR.

    Args:
        milestones: epochs, in order.
        gamma: what the learning rate is multiplied by.
    """
    if sorted(set(milestones)) != list(milestones):
        raise ConfigError(f"scheduler.milestones={list(milestones)}: epochs must increase", "e.g. [10, 15]")
    steps = [epoch * steps_per_epoch for epoch in milestones]
    return LambdaLR(optimizer, lambda number: float(gamma ** bisect_right(steps, number)))
