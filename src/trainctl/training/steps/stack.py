"""Many models of one shape as one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from trainctl.data.readout import RAW, Readout
from trainctl.registry.protocols import Batch
from trainctl.training.loop import computed, evaluating, weighted_mean

_LIMIT = 2**26


class Stack:
    """Models of one shape as one: a parameter of shape (…) is a row of a tensor (models, …).

    The parameters and buffers of the models become views of the rows: each model is at any time what it would
    be on its own. A chain of linear layers and activations is computed as one batched matrix product a layer;
    any other model goes through torch.func.vmap.

    Args:
        models: of one structure, on one device.
        criterion: the loss of each.
        sample: a batch for one model, which shows whether it is a chain; without it all goes through vmap.
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
        self._by_sample = None
        if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) and criterion.reduction == "mean":
            self._by_sample = copy.copy(self.criterion)
            self._by_sample.reduction = "none"

    def __repr__(self) -> str:  # choose_threads tells models apart by it
        return f"{self.count} × {self.template!r}"

    def outputs(self, inputs: Tensor, *, shared: bool = False) -> Tensor:
        """The outputs of each model, shape (models, N, …), for inputs of its own (models, N, …) or ``shared``
        ones (N, …)."""
        if self._chain is not None:
            return self._linked(self._chain, inputs, shared)

        def call(tensors: dict[str, Tensor], own: Tensor) -> Any:
            return functional_call(self.template, tensors, (own,))

        outputs: Tensor = vmap(call, in_dims=(0, None if shared else 0))(self.tensors, inputs)
        return outputs

    def losses(self, outputs: Tensor, targets: Tensor, *, shared: bool = False) -> Tensor:
        """The loss of each model, shape (models,), of outputs (models, N, …) against targets of its own
        (models, N, …), or ``shared`` ones (N, …)."""
        if self._by_sample is None or targets.dim() > (1 if shared else 2):
            losses: Tensor = vmap(self.criterion, in_dims=(0, None if shared else 0))(outputs, targets)
            return losses
        models, size = outputs.shape[:2]
        if shared:
            targets = targets.expand(models, *targets.shape)
        flat = targets.reshape(-1, *targets.shape[2:])
        each: Tensor = self._by_sample(outputs.flatten(0, 1), flat).view(models, size)
        if self._by_sample.weight is None:
            return each.mean(1)
        weighted: Tensor = each.sum(1) / self._by_sample.weight[flat].view(models, size).sum(1)
        return weighted

    def evaluate(
        self, batches: Iterable[Batch], metrics: Sequence[Mapping[str, Any]], readout: Readout = RAW
    ) -> list[dict[str, float]]:
        """Loss and metrics of each model over all batches, as ``trainctl.training.loop.evaluate`` has them.

        ``metrics`` are new ones for each model.
        """
        losses, weights = [], []
        kept: list[tuple[Tensor, Tensor]] = []
        weigh = getattr(self.criterion, "batch_weight", len)
        with evaluating(self.template), torch.no_grad():
            for inputs, targets, *_ in batches:
                outputs = self.outputs(inputs, shared=True)
                losses.append(self.losses(outputs, targets, shared=True))
                weights.append(float(weigh(targets)))
                kept.append(readout.compared(outputs.float(), targets))
                if len(kept) * outputs.numel() > _LIMIT:
                    _update(metrics, kept)
            _update(metrics, kept)
            table = torch.stack(losses, 1).tolist()
        return [
            {"loss": weighted_mean(own, weights), **computed(each)}
            for own, each in zip(table, metrics, strict=True)
        ]

    def release(self, model: Any) -> None:
        """Give ``model``, one of these, tensors of its own."""
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.detach().clone()

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


def _update(totals: Sequence[Mapping[str, Any]], kept: list[tuple[Tensor, Tensor]]) -> None:
    """Show the metrics the kept batches: many at once, because each call costs the same."""
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
    the next; None for any other. Found by watching the tensors that go in and out of the layers."""
    passed: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def note(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        passed.append((name, module, inputs[0], outputs))

    layers = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    with ExitStack() as hooks, torch.no_grad():
        for name, module in layers:
            hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        outputs = model(sample)
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
