"""Warm-up, and a shape that the learning rate follows after it."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warm_then(
    optimizer: Optimizer, total_steps: int, warmup: int, final: float, shape: Callable[[float], float]
) -> LambdaLR:
    """Rise linearly to lr for ``warmup`` steps, then go from lr to lr × final along ``shape``.

    ``shape`` maps the progress, from 0 to 1, to values from 1 to 0. The first step of a warm-up takes
    lr / warmup; a run that is shorter than the warm-up ends during it.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, total_steps - 1 - warmup)
        return final + (1 - final) * shape(min(1.0, progress))

    return LambdaLR(optimizer, factor)
