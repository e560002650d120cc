"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from trainctl.components.optimizers._lean import make
from trainctl.registry import OPTIMIZERS, NonNegative, Positive, Probability


@OPTIMIZERS.register("sgd_momentum")
def sgd_momentum(
    parameters: Iterable[Tensor],
    lr: Positive = 0.05,
    momentum: Probability = 0.9,
    nesterov: bool = False,
    weight_decay: NonNegative = 0.0,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum: ``v = momentum * v + grad; p -= lr * v``.

    See torch.optim.SGD; Sutskever et al., On the importance of initialization and momentum in deep learning
    (2013), for Nesterov's form.

    Args:
        lr: learning rate.
        momentum: share of the last step's direction that is kept.
        nesterov: look ahead along the momentum.
        weight_decay: L2 penalty added to the gradient.
        fused: one kernel for all parameters; null uses it where the device has it.
    """
    return make(
        torch.optim.SGD,
        parameters,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        fused=fused,
    )
