"""Averages the weights as they train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainctl.checkpoint.shards import cut_like
from trainctl.registry.protocols import Model
from trainctl.training.run import Hook, Run


class Ema(Hook):
    """Keeps ``averaged`` the exponential moving average of ``model``; buffers are copied.

    The average is what is evaluated, chosen as the best, saved as the model and tested; the step goes on with
    the raw weights, which stand beside it in each checkpoint. Polyak and Juditsky, Acceleration of stochastic
    approximation by averaging (1992). The first steps count more, ``min(decay, (1 + n) / (10 + n))`` after n
    of them, as in TensorFlow's ExponentialMovingAverage: a short run is not all initial values.

    Args:
        averaged: a copy of ``model``, on its device.
        decay: share of the old average in the new one, between 0 and 1.
    """

    name = "ema"

    def __init__(self, model: Model, averaged: Model, decay: float) -> None:
        self.model, self.averaged, self.decay = model, averaged, decay
        self.updates = 0
        both = list(zip(averaged.parameters(), model.parameters(), strict=True))
        for average, _ in both:
            average.requires_grad_(False)
        trained = [(average, raw) for average, raw in both if raw.requires_grad]
        self._averages: list[Tensor] = [average for average, _ in trained]
        self._raw: list[Tensor] = [raw for _, raw in trained]

    def start(self, run: Run) -> None:
        if self.updates == 0:
            self.averaged.load_state_dict(self.model.state_dict())

    @torch.no_grad()
    def step(self, run: Run, loss: Tensor) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._averages, self._raw, 1 - decay)
        # Fetched each time: a module may put another tensor in a buffer's place.
        if isinstance(self.model, nn.Module) and isinstance(self.averaged, nn.Module):
            for own, buffer in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                own.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        raw = {name: item.detach() for name, item in self.model.named_parameters() if item.requires_grad}
        return {"updates": self.updates, "raw": raw}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        # What the checkpoint calls the model is the average, and it has just been put into the model.
        self.averaged.load_state_dict(self.model.state_dict())
        self.updates = state["updates"]
        parameters = dict(self.model.named_parameters())
        for name, raw in state["raw"].items():
            parameters[name].copy_(cut_like(raw, parameters[name]))
