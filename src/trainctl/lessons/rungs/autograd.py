"""Second rung: autograd finds the gradients of one weight and one bias."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from trainctl.config.settings import Config
from trainctl.lessons.rungs._by_hand import ByHand
from trainctl.registry import LOOPS
from trainctl.registry.protocols import Criterion, Model, Optimizer


@LOOPS.register("autograd")
class Autograd(ByHand):
    """The linear model: ``backward()`` computes the gradients, the update is written out.

    Stevens, Antiga and Viehmann, Deep Learning with PyTorch (2020), section 5.5.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.needs_linear()

    @staticmethod
    def step(
        model: Model,
        criterion: Criterion,
        optimizer: Optimizer,
        inputs: Tensor,
        targets: Tensor,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """One step on inputs (N, …) and targets (N, …); returns the loss, a scalar."""
        weight, bias = model.linear.weight, model.linear.bias  # type: ignore[attr-defined]
        lr = optimizer.param_groups[0]["lr"]

        with precision:
            loss = criterion(model(inputs), targets)
        loss.backward()
        with torch.no_grad():  # the update is no part of what is differentiated
            weight.sub_(weight.grad, alpha=lr)  # weight -= lr * weight.grad, rounded once
            weight.grad = None  # backward() adds to what is there
            if bias is not None:
                bias.sub_(bias.grad, alpha=lr)
                bias.grad = None
        return loss.detach()  # type: ignore[no-any-return]
