"""Cosine decay with warm restarts."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from trainctl.registry import SCHEDULERS, Count, Probability


@SCHEDULERS.register("cosine_restarts")
def cosine_restarts(
    optimizer: Optimizer,
    steps_per_epoch: int,
    epochs: Count = 10,
    factor: Count = 1,
    final: Probability = 0.0,
) -> CosineAnnealingWarmRestarts:
    """Cosines from lr down to lr × final, each starting again at lr.

    See torch.optim.lr_scheduler.CosineAnnealingWarmRestarts; Loshchilov and Hutter, SGDR (2017).

    Args:
        epochs: length of the first cosine.
        factor: the length of a cosine, relative to the one before.
        final: the end of a cosine as a share of lr.
    """
    return _Restarts(optimizer, epochs * steps_per_epoch, factor, final)


class _Restarts(CosineAnnealingWarmRestarts):
    """torch's, which goes down to one learning rate, with a share of that of each group in its place."""

    def __init__(self, optimizer: Optimizer, first: int, factor: int, final: float) -> None:
        self.final = final
        lowest = final * min(group["lr"] for group in optimizer.param_groups)
        super().__init__(optimizer, T_0=first, T_mult=factor, eta_min=lowest)

    def get_lr(self) -> list[float | Tensor]:
        rise = 1 + math.cos(math.pi * self.T_cur / self.T_i)
        lows = [base * self.final for base in self.base_lrs]
        return [low + (base - low) * rise / 2 for base, low in zip(self.base_lrs, lows, strict=True)]
