"""One step of many models of one shape, each on a batch of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from trainctl.registry.protocols import Batch

_LIMIT = 2**26
_SETTINGS = {
    "SGD": ("lr", "momentum", "dampening", "nesterov", "weight_decay"),
    "Adam": ("lr", "betas", "eps", "weight_decay"),
    "AdamW": ("lr", "betas", "eps", "weight_decay"),
}
_MOMENTS = {
    "SGD": ("momentum_buffer",),
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
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


class Stack:
    """Models of one shape as one: a parameter of shape (…) is a row of a tensor (models, …).

    The parameters and buffers of the models become views of the rows, so that each model is at any time what
    it would be on its own. :meth:`release` gives a model tensors of its own again.

    A chain of linear layers and activations is computed as one batched matrix product a layer; any other
    model goes through torch.func.vmap.

    Args:
        models: of one structure, on one device.
        criterion: what each one's loss is.
        sample: a batch for one model, from which a chain is known; without it all goes through vmap.
    """

    def __init__(self, models: Sequence[Any], criterion: Any, sample: Tensor | None = None) -> None:
        self.count = len(models)
        self.template = _without_idle_dropout(copy.deepcopy(models[0]))
        self.criterion = copy.deepcopy(criterion)
        self.tensors: dict[str, Tensor] = {}
        named = [dict(model.named_parameters()) | dict(model.named_buffers()) for model in models]
        for name, first in named[0].items():
            stacked = torch.stack([tensors[name].detach() for tensors in named])
            for row, tensors in zip(stacked, named, strict=True):
                tensors[name].data = row
            self.tensors[name] = stacked.requires_grad_(first.requires_grad)
        self.names = [name for name, tensor in self.tensors.items() if tensor.requires_grad]
        self.trained = [self.tensors[name] for name in self.names]
        self._chain = None if sample is None else _chain_of(self.template, sample)
        # torch's own mean over the batch, taken for each model: under vmap these two are computed in Python.
        self._plain = type(criterion) if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) else None
        if self._plain is not None and criterion.reduction == "mean":
            self._each = copy.copy(self.criterion)
            self._each.reduction = "none"
        else:
            self._plain = None

    def __repr__(self) -> str:
        return f"{self.count} × {self.template!r}"

    def outputs(self, inputs: Tensor, *, shared: bool = False) -> Tensor:
        """What each model makes of its own batch (models, N, …), or all of a ``shared`` one (N, …).

        Shape of the outputs: (models, N, …).
        """
        if self._chain is not None:
            return self._linked(self._chain, inputs, shared)
        outputs: Tensor = vmap(self._outputs, in_dims=(0, None if shared else 0))(self.tensors, inputs)
        return outputs

    def losses(self, outputs: Tensor, targets: Tensor, *, shared: bool = False) -> Tensor:
        """The loss of each model, shape (models,), of outputs (models, N, …) against targets of its own
        (models, N, …), or ``shared`` ones (N, …)."""
        if self._plain is None:
            losses: Tensor = vmap(self.criterion, in_dims=(0, None if shared else 0))(outputs, targets)
            return losses
        models, size = outputs.shape[:2]
        if shared:
            targets = targets.expand(models, *targets.shape)
        flat = targets.reshape(-1, *targets.shape[2:])
        each = self._each(outputs.reshape(models * size, *outputs.shape[2:]), flat).view(models, size)
        if self._each.weight is None:
            mean: Tensor = each.mean(1)
            return mean
        weighted: Tensor = each.sum(1) / self._each.weight[flat].view(models, size).sum(1)
        return weighted

    def evaluate(
        self, batches: Iterable[Batch], metrics: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, float]]:
        """Loss and metrics of each model over all batches, as ``trainctl.training.loop.evaluate`` has them.

        ``metrics`` are new ones for each model.
        """
        losses, sizes = [], []
        kept: list[tuple[Tensor, Tensor]] = []
        weigh = getattr(self.criterion, "batch_weight", len)
        with self._evaluating(), torch.no_grad():
            for inputs, targets, *_ in batches:
                outputs = self.outputs(inputs, shared=True)
                losses.append(self.losses(outputs, targets, shared=True))
                sizes.append(weigh(targets))
                kept.append((outputs.float(), targets))
                if len(kept) * outputs.numel() > _LIMIT:
                    _update(metrics, kept)
            _update(metrics, kept)
            table = torch.stack(losses, 1).tolist()
        found = []
        for own, metric in zip(table, metrics, strict=True):
            weighted = sum(loss * size for loss, size in zip(own, sizes, strict=True))
            values = {"loss": weighted / sum(sizes)}
            for name, each in metric.items():
                value = each.compute()
                several = isinstance(value, Mapping)
                values |= {f"{name}/{key}": item for key, item in value.items()} if several else {name: value}
            found.append(values)
        return found

    def release(self, model: Any) -> None:
        """Give ``model``, one of these, tensors of its own."""
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.detach().clone()

    def _outputs(self, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self.template, tensors, (inputs,))
        return outputs

    def _linked(self, chain: Sequence[_Link], inputs: Tensor, shared: bool) -> Tensor:
        # Features before samples, (models, features, N): then the gradients of the weights come out as the
        # weights lie, which the optimizer's kernels need.
        values = inputs.flatten(1).T if shared else inputs.flatten(2).transpose(1, 2)
        for link in chain:
            if not isinstance(link, str):
                values = link(values)
                continue
            weight, bias = self.tensors[f"{link}weight"], self.tensors.get(f"{link}bias")
            if values.dim() == 2:
                # All models see the same: one product.
                values = (weight.flatten(0, 1) @ values).view(*weight.shape[:2], -1)
                values = values if bias is None else values + bias.unsqueeze(2)
            elif bias is None:
                values = torch.bmm(weight, values)
            else:
                values = torch.baddbmm(bias.unsqueeze(2), weight, values)
        return values.transpose(1, 2)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.template.eval()
        try:
            yield
        finally:
            self.template.train()


def _update(totals: Sequence[Mapping[str, Any]], kept: list[tuple[Tensor, Tensor]]) -> None:
    """Show the metrics what was kept: once for many batches, because each call costs the same."""
    if not kept:
        return
    outputs = torch.cat([each for each, _ in kept], 1)
    targets = torch.cat([each for _, each in kept])
    kept.clear()
    for own, metrics in zip(outputs, totals, strict=True):
        for metric in metrics.values():
            metric.update(own, targets)


_Link = str | nn.Module
"""A layer of a chain: the prefix of a linear layer's parameters, or an activation."""
_ACTIVATIONS = (
    nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Identity, nn.Hardtanh, nn.ReLU6,
    nn.Softplus, nn.Mish, nn.SELU, nn.CELU, nn.Hardswish, nn.LogSigmoid, nn.Softsign,
)  # fmt: skip


def _chain_of(model: nn.Module, sample: Tensor) -> list[_Link] | None:
    """The layers of a model that flattens its inputs and passes them from one linear layer or activation to
    the next; None for any other. Known by watching the tensors that go in and out of the layers."""
    passed: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):

            def note(module: nn.Module, inputs: Any, outputs: Any, name: str = name) -> None:
                passed.append((name, module, inputs[0], outputs))

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            outputs = model(sample)
    finally:
        for handle in handles:
            handle.remove()
    before = sample.flatten(1)
    chain: list[_Link] = []
    for name, module, taken, given in passed:
        if isinstance(module, nn.Flatten) and not chain and given.shape == before.shape:
            continue
        is_linear = type(module) is nn.Linear
        if not is_linear and type(module) not in _ACTIVATIONS:
            return None
        # The very tensor that the layer before gave, or at first the inputs as rows.
        if taken is not before and (chain or taken.shape != before.shape or not torch.equal(taken, before)):
            return None
        chain.append((f"{name}." if name else "") if is_linear else module)
        before = given
    used = [link for link in chain if isinstance(link, str)]
    known = {f"{link}{key}" for link in used for key in ("weight", "bias")}
    tensors = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return chain if used and outputs is before and tensors <= known else None


def _without_idle_dropout(model: nn.Module) -> nn.Module:
    """``model`` with identities in place of dropout that drops nothing, which vmap takes for random."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.modules.dropout._DropoutNd) and child.p == 0:
                setattr(module, name, nn.Identity())
    return model


class StackedOptimizer:
    """SGD, Adam or AdamW on a stack, by the fused kernels that torch's own optimizers use.

    Models of equal settings that lie side by side share a call. The moments are rows of stacked tensors, and
    the state of each model's own optimizer is made of views of them: its ``state_dict`` is always right.

    Args:
        stack: of ``models``.
        models, optimizers: one each. The settings of each are read from the first of those that share a call;
            :meth:`follow` reads them again.

    Raises ValueError for what cannot be stacked.
    """

    def __init__(self, stack: Stack, models: Sequence[Any], optimizers: Sequence[Any]) -> None:
        self.kind = type(optimizers[0]).__name__
        self._moments: dict[str, dict[str, Tensor]] = {}
        device = stack.trained[0].device
        self.step_count = torch.tensor(_steps_of(optimizers), device=device)
        own = [dict(model.named_parameters()) for model in models]
        for name in stack.names:
            pairs = [(optimizer, named[name]) for optimizer, named in zip(optimizers, own, strict=True)]
            self._moments[name] = self._stacked(pairs, stack.tensors[name])
        self.calls = self._plan(stack, optimizers, own[0])

    def _stacked(self, pairs: Sequence[tuple[Any, Tensor]], parameter: Tensor) -> dict[str, Tensor]:
        """The moments of one parameter, with each optimizer's state made of views of them."""
        moments = {}
        for key in _MOMENTS[self.kind]:
            if self.kind == "SGD" and not any(_momentum(optimizer) for optimizer, _ in pairs):
                continue
            empty = torch.zeros_like(pairs[0][1])
            moments[key] = torch.stack(
                [optimizer.state.get(own, {}).get(key, empty) for optimizer, own in pairs]
            )
        for row, (optimizer, own) in enumerate(pairs):
            state = {} if self.kind == "SGD" else {"step": self.step_count}
            if self.kind != "SGD" or _momentum(optimizer):
                state |= {key: moment[row] for key, moment in moments.items()}
            if state:
                optimizer.state[own] = state
        return moments

    def _plan(self, stack: Stack, optimizers: Sequence[Any], own: Mapping[str, Tensor]) -> list[_Call]:
        names = {id(tensor): name for name, tensor in own.items()}
        groups = [[names[id(each)] for each in group["params"]] for group in optimizers[0].param_groups]
        # Different ones, some of which have momentum and some not, never share.
        calls: list[_Call] = []
        start = 0
        self._sizes: list[int] = []
        for _, same in groupby(optimizers, key=lambda optimizer: repr(settings_of(optimizer))):
            length = len(list(same))
            rows = slice(start, start + length)
            for number, group in enumerate(groups):
                has_moments = self.kind != "SGD" or _momentum(optimizers[start])
                calls.append(
                    _Call(
                        group=number,
                        row=start,
                        piece=len(self._sizes),
                        indices=[stack.names.index(name) for name in group],
                        parameters=[stack.tensors[name].detach()[rows] for name in group],
                        moments=[
                            [self._moments[name][key][rows] for name in group] if has_moments else []
                            for key in _MOMENTS[self.kind]
                        ],
                        settings=settings_of(optimizers[start])[number],
                    )
                )
            start += length
            self._sizes.append(length)
        return calls

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update all parameters. Shape: each gradient (models, …)."""
        self.step_count += 1
        # The kernels take values as they lie in memory.
        pieces = [torch.split(gradient.contiguous(), self._sizes) for gradient in gradients]
        for call in self.calls:
            own = [pieces[index][call.piece] for index in call.indices]
            _KERNELS[self.kind](call, own, self.step_count)

    def follow(self, row: int, optimizer: Any) -> None:
        """Take over what a scheduler has changed in the settings of the model at ``row``."""
        settings = settings_of(optimizer)
        for call in self.calls:
            if call.row == row:
                call.settings = settings[call.group]

    @property
    def sharing(self) -> list[tuple[int, int]]:
        """The rows that share their settings: (first, number) each, from the top."""
        firsts = [call.row for call in self.calls if call.group == 0]
        return list(zip(firsts, self._sizes, strict=True))

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
        settings: what the kernel gets.
    """

    group: int
    row: int
    piece: int
    indices: list[int]
    parameters: list[Tensor]
    moments: list[list[Tensor]]
    settings: dict[str, Any]


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """What a step reads of each parameter group."""
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
    counts = {
        float(state["step"])
        for optimizer in optimizers
        for state in optimizer.state.values()
        if "step" in state
    }
    if len(counts) > 1:
        raise ValueError("the models have taken different numbers of steps")
    return counts.pop() if counts else 0.0


def _adam(call: _Call, gradients: list[Tensor], step_count: Tensor, decoupled: bool = False) -> None:
    kernel: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_
    settings = call.settings
    kernel(
        call.parameters,
        gradients,
        *call.moments,
        [],
        [step_count] * len(gradients),
        lr=settings["lr"],
        beta1=settings["betas"][0],
        beta2=settings["betas"][1],
        weight_decay=settings["weight_decay"],
        eps=settings["eps"],
        amsgrad=False,
        maximize=False,
    )


def _adamw(call: _Call, gradients: list[Tensor], step_count: Tensor) -> None:
    _adam(call, gradients, step_count, decoupled=True)


def _sgd(call: _Call, gradients: list[Tensor], step_count: Tensor) -> None:
    torch._fused_sgd_(
        call.parameters,
        gradients,
        *call.moments,
        **call.settings,
        maximize=False,
        # The first step is like the others where the momentum begins at zero.
        is_first_step=False,
    )


_KERNELS: dict[str, Callable[[_Call, list[Tensor], Tensor], None]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adamw,
}
