"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from trainctl.components.optimizers._lean import make
from trainctl.registry import OPTIMIZERS, NonNegative, Positive


@OPTIMIZERS.register("sgd")
def sgd(
    parameters: Iterable[Tensor],
    lr: Positive = 0.1,
    weight_decay: NonNegative = 0.0,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent: ``p -= lr * (grad + weight_decay * p)``. See torch.optim.SGD.

    Args:
        lr: learning rate.
        weight_decay: L2 penalty added to the gradient.
        fused: one kernel for all parameters; null uses it where the device has it.
    """
    return make(torch.optim.SGD, parameters, lr=lr, weight_decay=weight_decay, fused=fused)
