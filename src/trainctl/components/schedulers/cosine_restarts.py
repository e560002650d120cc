"""Cosine decay with warm restarts."""

from __future__ import annotations

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
    lowest = final * min(group["lr"] for group in optimizer.param_groups)
    return CosineAnnealingWarmRestarts(optimizer, T_0=epochs * steps_per_epoch, T_mult=factor, eta_min=lowest)
