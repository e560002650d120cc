"""One cycle up and down."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from trainctl.registry import SCHEDULERS, Fraction, Positive


@SCHEDULERS.register("one_cycle")
def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    warmup_share: Fraction = 0.3,
    start: Positive = 25.0,
    end: Positive = 10000.0,
) -> OneCycleLR:
    """From lr / start up to lr, then down to lr / (start × end); the momentum goes the other way.

    See torch.optim.lr_scheduler.OneCycleLR; Smith and Topin, Super-Convergence (2019).

    Args:
        warmup_share: share of the rising steps.
        start: how many times smaller than lr the first step's learning rate is.
        end: how many times smaller than the first step's the last one's is.
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    # Plain gradient descent has no momentum, and must not get one.
    has_momentum = all("betas" in group or group.get("momentum") for group in optimizer.param_groups)
    return OneCycleLR(
        optimizer,
        max_lr=peaks,
        # The cycle needs a rising and a falling step.
        total_steps=max(2, total_steps),
        pct_start=warmup_share,
        div_factor=start,
        final_div_factor=end,
        cycle_momentum=has_momentum,
    )
