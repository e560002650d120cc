"""Stochastic gradient descent, from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainctl.lessons import scratch
from trainctl.registry import OPTIMIZERS, Positive, Probability


@OPTIMIZERS.register("scratch_sgd")
def scratch_sgd(parameters: Iterable[Any], lr: Positive = 0.1, momentum: Probability = 0.0) -> scratch.SGD:
    """SGD in plain Python: ``v = momentum * v + grad; p -= lr * v``. See trainctl.lessons.scratch.

    Args:
        lr: learning rate.
        momentum: share of the last step's direction that is kept.
    """
    return scratch.SGD(parameters, lr=lr, momentum=momentum)
