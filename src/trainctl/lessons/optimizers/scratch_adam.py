"""Adam, from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainctl.lessons import scratch
from trainctl.registry import OPTIMIZERS, Positive, Probability


@OPTIMIZERS.register("scratch_adam")
def scratch_adam(
    parameters: Iterable[Any],
    lr: Positive = 0.001,
    betas: tuple[Probability, Probability] = (0.9, 0.999),
    eps: Positive = 1e-8,
) -> scratch.Adam:
    """Adam in plain Python. See trainctl.lessons.scratch.

    Kingma and Ba, Adam: A Method for Stochastic Optimization (2015).

    Args:
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the denominator.
    """
    return scratch.Adam(parameters, lr=lr, betas=betas, eps=eps)
