"""Linear decay with linear warm-up."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trainctl.components.schedulers._shapes import warm_then
from trainctl.registry import SCHEDULERS, NonNegativeInt, Probability


@SCHEDULERS.register("linear")
def linear(
    optimizer: Optimizer, total_steps: int, warmup: NonNegativeInt = 0, final: Probability = 0.0
) -> LambdaLR:
    """A straight line from lr down to lr × final over the whole run, after a linear warm-up.

    Args:
        warmup: steps over which the learning rate rises to lr.
        final: the last step's learning rate as a share of lr.
    """
    return warm_then(optimizer, total_steps, warmup, final, lambda progress: 1 - progress)
