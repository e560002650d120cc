"""Third rung: a network, each layer's weight and bias updated in turn."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from trainctl.lessons.rungs._by_hand import ByHand
from trainctl.registry import LOOPS
from trainctl.registry.protocols import Criterion, Model, Optimizer, named_modules


@LOOPS.register("layers")
class Layers(ByHand):
    """A network of layers that have a weight and a bias: each layer's are updated in turn.

    Howard and Gugger, What is torch.nn really? (PyTorch tutorials), before ``parameters()``.
    """

    def refusal(self, model: Any, criterion: Any, optimizer: Any) -> str | None:
        """A parameter other than a layer's weight or bias would never be updated."""
        other = [
            name for name, _ in model.named_parameters() if name.split(".")[-1] not in ("weight", "bias")
        ]
        return f"it updates weights and biases only, not {other[0]}; use loop=parameters" if other else None

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
            for _, layer in named_modules(model):
                weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
                if weight is not None and weight.grad is not None:
                    weight.sub_(weight.grad, alpha=lr)  # weight -= lr * weight.grad, rounded once
                    weight.grad = None
                if bias is not None and bias.grad is not None:
                    bias.sub_(bias.grad, alpha=lr)
                    bias.grad = None
        return loss.detach()  # type: ignore[no-any-return]
