"""Stops a run whose loss is not finite, before it can spoil the parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.errors import NotFiniteError
from trainctl.hooks._base import Hook
from trainctl.loop import Run

_WINDOW = 50


class LossGuard(Hook):
    """Raises NotFiniteError (exit 6) at a loss that is NaN or infinite.

    On the CPU the loss is read as soon as it is computed, so the step is not taken. On another device reading
    would wait for it at every step; there the losses are looked at together, every 50 steps and at the end of
    each epoch, and the first bad step is named.
    """

    def __init__(self) -> None:
        self._recent: list[Tensor] = []

    def start(self, run: Run) -> None:
        device = next(run.model.parameters()).device
        self._immediate = device.type == "cpu"
        if not self._immediate:
            return
        state = run.state

        def check(criterion: nn.Module, inputs: Any, loss: Tensor) -> None:
            if torch.is_grad_enabled() and not math.isfinite(value := loss.item()):
                raise _not_finite(value, state.step + 1, run.optimizer.param_groups[0]["lr"])

        run.criterion.register_forward_hook(check)

    def step(self, run: Run, loss: Tensor) -> None:
        if self._immediate:
            return
        self._recent.append(loss)
        if len(self._recent) == _WINDOW:
            self._look(run)

    def evaluated(self, run: Run, values: Any) -> None:
        if self._recent:
            self._look(run)

    def _look(self, run: Run) -> None:
        losses = torch.stack(self._recent).tolist()
        first = run.state.step - len(losses) + 1
        self._recent.clear()
        for offset, value in enumerate(losses):
            if not math.isfinite(value):
                raise _not_finite(value, first + offset, run.state.lr)


def _not_finite(value: float, step: int, lr: float) -> NotFiniteError:
    remedy = f"try a smaller one, e.g. lr={lr / 10:g}, or train.clip_norm=1.0"
    if step == 1:
        remedy = "no step was taken yet: the inputs, the targets or the model's first outputs are not finite"
    return NotFiniteError(f"the loss is {value} at step {step} with learning rate {lr:g}", remedy)
