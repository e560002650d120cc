"""Reduction on a plateau."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trainctl.registry import SCHEDULERS, Fraction, NonNegative, NonNegativeInt


@SCHEDULERS.register("reduce_on_plateau")
def reduce_on_plateau(
    optimizer: Optimizer,
    lower_is_better: bool,
    factor: Fraction = 0.1,
    patience: NonNegativeInt = 5,
    threshold: NonNegative = 0.0001,
    cooldown: NonNegativeInt = 0,
    min_lr: NonNegative = 0.0,
) -> ReduceLROnPlateau:
    """lr × factor when train.monitor has not improved for more than ``patience`` evaluations.

    See torch.optim.lr_scheduler.ReduceLROnPlateau. It needs validation data.

    Args:
        factor: what the learning rate is multiplied by.
        patience: evaluations without improvement before a reduction.
        threshold: relative improvement that counts.
        cooldown: evaluations to wait after a reduction.
        min_lr: the learning rate never falls below this.
    """
    return ReduceLROnPlateau(
        optimizer,
        mode="min" if lower_is_better else "max",
        factor=factor,
        patience=patience,
        threshold=threshold,
        cooldown=cooldown,
        min_lr=min_lr,
    )
