"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from trainctl.components.optimizers._lean import make
from trainctl.registry import OPTIMIZERS, NonNegative, Positive, Probability


@OPTIMIZERS.register("adamw")
def adamw(
    parameters: Iterable[Tensor],
    lr: Positive = 0.001,
    betas: tuple[Probability, Probability] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.01,
    amsgrad: bool = False,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay: ``p -= lr * weight_decay * p`` beside Adam's step.

    See torch.optim.AdamW; Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019).

    Args:
        lr: learning rate.
        betas: decay of the running means of the gradient and of its square.
        eps: added to the denominator.
        weight_decay: share of each weight, times lr, removed a step.
        amsgrad: keep the largest running mean of the squares.
        fused: one kernel for all parameters; null uses it where the device has it.
    """
    return make(
        torch.optim.AdamW,
        parameters,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        fused=fused,
    )
