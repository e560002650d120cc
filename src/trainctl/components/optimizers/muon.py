"""Muon on the matrices, AdamW on the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainctl.components.optimizers._lean import lean, make
from trainctl.errors import ConfigError
from trainctl.registry import OPTIMIZERS, Count, NonNegative, Positive, Probability


class MuonWithAdamW(Optimizer):
    """Two optimizers that share one list of parameter groups, so that schedulers and hooks see one."""

    whole_matrices = True
    """An update needs the whole matrix: strategy=fsdp, which cuts it, refuses this optimizer."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        super().__init__(
            [group for part in parts for group in part.param_groups], {"lr": parts[0].defaults["lr"]}
        )
        # The parts must see what a scheduler writes: they work on the very same dictionaries.
        groups = iter(self.param_groups)
        for part in parts:
            part.param_groups = [next(groups) for _ in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        # torch's own keeps three attributes; a copy needs the parts, too.
        return {**super().__getstate__(), "parts": self.parts}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


@OPTIMIZERS.register("muon")
def muon(
    parameters: Iterable[Any],
    lr: Positive = 0.001,
    weight_decay: NonNegative = 0.1,
    momentum: Probability = 0.95,
    nesterov: bool = True,
    ns_steps: Count = 5,
    betas: tuple[Probability, Probability] = (0.9, 0.999),
) -> Optimizer:
    """Muon on the weight matrices, AdamW on everything else (biases, norms, convolutions).

    See torch.optim.Muon; Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024). The
    update is scaled to AdamW's size (Liu et al., Muon is Scalable for LLM Training, 2025), so one learning
    rate serves both.

    Args:
        lr: learning rate of both.
        weight_decay: decoupled weight decay of both.
        momentum: Muon's momentum.
        nesterov: Nesterov's form of Muon's momentum.
        ns_steps: Newton-Schulz iterations that make an update orthogonal.
        betas: AdamW's running means.
    """
    groups = [item if isinstance(item, dict) else {"params": [item]} for item in parameters]
    matrices, rest = _divided(groups, matrices=True), _divided(groups, matrices=False)
    if not matrices:
        raise ConfigError("optim=muon: the model has no weight matrix", "use optim=adamw")
    parts = [
        make(
            torch.optim.Muon,
            matrices,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn="match_rms_adamw",
        )
    ]
    if rest:
        parts.append(make(torch.optim.AdamW, rest, lr=lr, weight_decay=weight_decay, betas=betas))
    return lean(MuonWithAdamW)(parts)  # type: ignore[call-arg, arg-type]


def _divided(groups: list[dict[str, Any]], *, matrices: bool) -> list[dict[str, Any]]:
    """The groups with only their matrices, or with only the rest; groups of the same settings joined."""
    joined: dict[str, dict[str, Any]] = {}
    for group in groups:
        chosen: list[Tensor] = [tensor for tensor in group["params"] if (tensor.dim() == 2) == matrices]
        if chosen:
            settings = {key: value for key, value in group.items() if key != "params"}
            joined.setdefault(repr(settings), {**settings, "params": []})["params"] += chosen
    return list(joined.values())
