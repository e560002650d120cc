"""One step of many models of one shape, each on a batch of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from trainctl.training.steps.stack import Stack

_ADAM = ("lr", "betas", "eps", "weight_decay")
_SETTINGS = {
    "SGD": ("lr", "momentum", "dampening", "nesterov", "weight_decay"),
    "Adam": _ADAM,
    "AdamW": _ADAM,
}


def stacked_step(stack: Stack, optimizer: StackedOptimizer, inputs: Tensor, targets: Tensor) -> Tensor:
    """One step of every model; returns the losses, shape (models,), which are not waited for.

    Shape: inputs (models, N, …), targets (models, N, …).
    """
    losses = stack.losses(stack.outputs(inputs), targets)
    # Each loss depends on its own model only: the gradient of the sum is all of their gradients.
    gradients = torch.autograd.grad(losses.sum(), stack.trained)
    optimizer.step(gradients)
    return losses.detach()


class StackedOptimizer:
    """SGD, Adam or AdamW on a stack, by the fused kernels that torch's own optimizers use.

    Neighbours of equal settings share a call. The moments are rows of stacked tensors, and the state of each
    model's own optimizer is made of views of them: its ``state_dict`` is always right.

    Args:
        stack: of ``models``.
        models, optimizers: one each. The settings of each are read from the first of those that share a call;
            :meth:`follow` reads them again.

    Raises ValueError for models that have taken different numbers of steps.
    """

    def __init__(self, stack: Stack, models: Sequence[Any], optimizers: Sequence[Any]) -> None:
        self.kind = type(optimizers[0]).__name__
        self._keys = ("momentum_buffer",) if self.kind == "SGD" else ("exp_avg", "exp_avg_sq")
        self.step_count = torch.tensor(_steps_of(optimizers), device=stack.trained[0].device)
        own = [dict(model.named_parameters()) for model in models]
        self._moments = {
            name: self._stacked(
                [(optimizer, named[name]) for optimizer, named in zip(optimizers, own, strict=True)]
            )
            for name in stack.names
        }
        self._plan(stack, optimizers, own[0])

    def _stacked(self, pairs: Sequence[tuple[Any, Tensor]]) -> dict[str, Tensor]:
        """The moments of one parameter, with each optimizer's state made of views of them."""
        adam, moments = self.kind != "SGD", {}
        if adam or any(_momentum(optimizer) for optimizer, _ in pairs):
            empty = torch.zeros_like(pairs[0][1])
            for key in self._keys:
                rows = [optimizer.state.get(own, {}).get(key, empty) for optimizer, own in pairs]
                moments[key] = torch.stack(rows)
        for row, (optimizer, own) in enumerate(pairs):
            state = {"step": self.step_count} if adam else {}
            if adam or _momentum(optimizer):
                state |= {key: moment[row] for key, moment in moments.items()}
            if state:
                optimizer.state[own] = state
        return moments

    def _plan(self, stack: Stack, optimizers: Sequence[Any], own: Mapping[str, Tensor]) -> None:
        """Divide the rows into calls: one for neighbours of equal settings, and for each parameter group."""
        names = {id(tensor): name for name, tensor in own.items()}
        groups = [[names[id(each)] for each in group["params"]] for group in optimizers[0].param_groups]
        self.sharing: list[tuple[int, int]] = []
        """The rows that share their settings: (first, number) each, from the top."""
        self.calls: list[_Call] = []
        start = 0
        for _, same in groupby(optimizers, key=lambda optimizer: repr(settings_of(optimizer))):
            rows = slice(start, start + len(list(same)))
            # Optimizers with momentum and without never share.
            has_moments = self.kind != "SGD" or _momentum(optimizers[start])
            for number, group in enumerate(groups):
                self.calls.append(
                    _Call(
                        group=number,
                        row=start,
                        piece=len(self.sharing),
                        indices=[stack.names.index(name) for name in group],
                        parameters=[stack.tensors[name].detach()[rows] for name in group],
                        moments=[
                            [self._moments[name][key][rows] for name in group if has_moments]
                            for key in self._keys
                        ],
                        settings=settings_of(optimizers[start])[number],
                    )
                )
            self.sharing.append((start, rows.stop - start))
            start = rows.stop
        self._sizes = [length for _, length in self.sharing]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update all parameters. Shape: each gradient (models, …)."""
        self.step_count += 1
        # The kernels take values as they lie in memory.
        pieces = [torch.split(gradient.contiguous(), self._sizes) for gradient in gradients]
        for call in self.calls:
            own = [pieces[index][call.piece] for index in call.indices]
            _KERNELS[self.kind](call, own, self.step_count)

    def hold_rates(self) -> None:
        """Keep the learning rates on the device, in float32: there a step that is recorded reads new ones."""
        for call in self.calls:
            rate = torch.tensor(call.settings["lr"], dtype=torch.float32, device=self.step_count.device)
            call.settings = {**call.settings, "lr": rate}

    def follow(self, row: int, optimizer: Any) -> bool:
        """Take over the settings of the model at ``row``, which a scheduler has changed; whether they differ
        in more than the learning rate."""
        settings, is_other = settings_of(optimizer), False
        for call in self.calls:
            if call.row == row:
                is_other |= call.follow(settings[call.group])
        return is_other

    def tensors(self) -> list[Tensor]:
        """All that a step changes beside the parameters."""
        return [self.step_count, *(each for moments in self._moments.values() for each in moments.values())]

    def release(self, optimizer: Any) -> None:
        """Give the state of ``optimizer``, one of these, tensors of its own."""
        for parameter, state in optimizer.state.items():
            optimizer.state[parameter] = {key: value.clone() for key, value in state.items()}


@dataclass
class _Call:
    """One call of a kernel: some rows of the parameters of one parameter group.

    Attributes:
        group: the parameter group's number.
        row: the first of the rows; they are the ``piece``-th of all.
        indices: of its parameters among those that are trained.
        parameters, moments: views of the rows.
        settings: arguments of the kernel.
    """

    group: int
    row: int
    piece: int
    indices: list[int]
    parameters: list[Tensor]
    moments: list[list[Tensor]]
    settings: dict[str, Any]

    def follow(self, settings: dict[str, Any]) -> bool:
        """Take over settings; whether they differ in more than the learning rate."""
        if isinstance(rate := self.settings["lr"], Tensor):
            rate.fill_(settings["lr"])
            settings = {**settings, "lr": rate}
        before, self.settings = self.settings, settings
        return any(settings[key] != before[key] for key in settings if key != "lr")


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """The settings of each parameter group that a step reads."""
    keys = _SETTINGS[type(optimizer).__name__]
    return [{key: group[key] for key in keys} for group in optimizer.param_groups]


def why_not(optimizer: Any) -> str | None:
    """Why an optimizer cannot be stacked; None where it can."""
    kind = type(optimizer).__name__
    if kind not in _SETTINGS:
        return f"optimizer {kind} has no stacked form"
    for key in ("amsgrad", "maximize"):
        if any(group.get(key) for group in optimizer.param_groups):
            return f"optim.{key} has no stacked form"
    return None


def _momentum(optimizer: Any) -> bool:
    return any(group.get("momentum") for group in optimizer.param_groups)


def _steps_of(optimizers: Sequence[Any]) -> float:
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    counts = {float(state["step"]) for state in states if "step" in state}
    if len(counts) > 1:
        raise ValueError("the models have taken different numbers of steps")
    return counts.pop() if counts else 0.0


def _adam(call: _Call, gradients: list[Tensor], step_count: Tensor, kernel: Any = torch._fused_adam_) -> None:
    beta1, beta2 = call.settings["betas"]
    kernel(
        *(call.parameters, gradients, *call.moments, [], [step_count] * len(gradients)),
        beta1=beta1,
        beta2=beta2,
        **{key: call.settings[key] for key in ("lr", "weight_decay", "eps")},
        amsgrad=False,
        maximize=False,
    )


def _sgd(call: _Call, gradients: list[Tensor], step_count: Tensor) -> None:
    # The first step is like the others where the momentum begins at zero.
    torch._fused_sgd_(
        *(call.parameters, gradients, *call.moments), **call.settings, maximize=False, is_first_step=False
    )


_KERNELS: dict[str, Callable[[_Call, list[Tensor], Tensor], None]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": partial(_adam, kernel=torch._fused_adamw_),
}
