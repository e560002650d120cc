"""First rung: the gradients written out by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from trainctl.config.settings import Config
from trainctl.errors import ConfigError
from trainctl.lessons.rungs._by_hand import ByHand
from trainctl.registry import LOOPS
from trainctl.registry.protocols import Criterion, Model, Optimizer


@LOOPS.register("derivatives")
class Derivatives(ByHand):
    """The linear model with MSE and its derivatives written out: no autograd anywhere.

    Stevens, Antiga and Viehmann, Deep Learning with PyTorch (2020), section 5.4.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.needs_linear()
        if config.loss.name not in ("mse", "scratch_mse"):
            raise ConfigError(
                f"loop=derivatives requires loss=mse, whose derivative it has, not loss={config.loss.name}",
                "use loss=mse, or loop=autograd for any loss",
            )
        if config.train.precision != "fp32":
            raise ConfigError(
                f"loop=derivatives requires fp32, not train.precision={config.train.precision}",
                "use train.precision=fp32, or loop=autograd",
            )

    @staticmethod
    @torch.no_grad()
    def step(
        model: Model,
        criterion: Criterion,
        optimizer: Optimizer,
        inputs: Tensor,
        targets: Tensor,
        precision: AbstractContextManager[Any],
    ) -> Tensor:
        """One step on inputs (N, …) and targets (N, outputs); returns the loss, a scalar."""
        linear, lr = model.linear, optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]

        outputs = model(inputs)  # inputs @ weight.T + bias
        loss: Tensor = criterion(outputs, targets)  # mean((outputs - targets) ** 2)

        gradient = 2 * (outputs - targets) / outputs.numel()  # d loss / d outputs, (N, outputs)
        # d outputs / d weight = inputs, d outputs / d bias = 1
        linear.weight -= lr * (gradient.T @ inputs.flatten(1))
        if linear.bias is not None:
            linear.bias -= lr * gradient.sum(dim=0)
        return loss
