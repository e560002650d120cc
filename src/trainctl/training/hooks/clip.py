"""Clips the gradients before each step."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from trainctl.training.run import Hook, Run


class ClipNorm(Hook):
    """Scales all gradients together so that their norm is at most ``max_norm``, as an optimizer pre-hook.

    Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks (2013).
    """

    name = "clip"

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def start(self, run: Run) -> None:
        run.optimizer.register_step_pre_hook(self._clip)

    def _clip(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
