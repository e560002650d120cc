"""Cosine decay with linear warm-up."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainctl.components.schedulers._shapes import warm_then
from trainctl.registry import SCHEDULERS, NonNegativeInt, Probability


@SCHEDULERS.register("cosine")
def cosine(
    optimizer: Optimizer, total_steps: int, warmup: NonNegativeInt = 0, final: Probability = 0.0
) -> LambdaLR:
    """Half a cosine from lr down to lr × final over the whole run, after a linear warm-up.

    Loshchilov and Hutter, SGDR (2017), without restarts; warm-up as in Goyal et al., Accurate, Large
    Minibatch SGD (2017).

    Args:
        warmup: steps over which the learning rate rises to lr; the first step takes lr / warmup.
        final: the last step's learning rate as a share of lr.
    """
    return warm_then(
        optimizer, total_steps, warmup, final, lambda progress: 0.5 * (1 + math.cos(math.pi * progress))
    )
