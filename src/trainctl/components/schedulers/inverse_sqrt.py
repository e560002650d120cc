"""Inverse square root decay with linear warm-up."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainctl.registry import SCHEDULERS, Count


@SCHEDULERS.register("inverse_sqrt")
def inverse_sqrt(optimizer: Optimizer, warmup: Count = 100) -> LambdaLR:
    """Linear warm-up to lr, then lr × sqrt(warmup / step): it needs no end of the run.

    Vaswani et al., Attention Is All You Need (2017).

    Args:
        warmup: steps over which the learning rate rises to lr.
    """
    return LambdaLR(optimizer, lambda step: min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5))
