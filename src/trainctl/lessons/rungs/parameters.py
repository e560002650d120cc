"""Fourth rung: one loop over all parameters."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from trainctl.lessons.rungs._by_hand import ByHand
from trainctl.registry import LOOPS
from trainctl.registry.protocols import Criterion, Model, Optimizer


@LOOPS.register("parameters")
class Parameters(ByHand):
    """Any model: one loop over ``model.parameters()`` updates all of them.

    Howard and Gugger, What is torch.nn really? (PyTorch tutorials), after ``nn.Module``.
    """

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
        lr = optimizer.param_groups[0]["lr"]

        with precision:
            loss = criterion(model(inputs), targets)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:  # a frozen one has none
                    parameter.sub_(parameter.grad, alpha=lr)  # parameter -= lr * parameter.grad, rounded once
                    parameter.grad = None
        return loss.detach()  # type: ignore[no-any-return]
