"""The parameters of a run: which are frozen, their weight decay, their first values."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedParameter

from trainctl.checkpoint.format import CheckpointData
from trainctl.checkpoint.retention import read_chosen
from trainctl.config.settings import Component, Config
from trainctl.errors import CheckpointError, ConfigError
from trainctl.registry import OPTIMIZERS
from trainctl.registry.constraints import show, some
from trainctl.registry.protocols import Model, named_modules
from trainctl.runs.directory import find
from trainctl.runs.record import read_record

_NORMS = ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm")


def freeze(component: Component, model: Model) -> None:
    """Stop the gradients of the parameters that ``model.freeze`` names: patterns such as ``features.*``.

    Raises ConfigError for a pattern that matches nothing, and when nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    names = list(parameters)
    if component.common.get("freeze", ()):
        refuse_lazy(model, "model.freeze")
    for pattern in component.common.get("freeze", ()):
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise ConfigError(f"model.freeze={pattern}: matches no parameter", f"there are: {some(names)}")
        for name in matching:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        why = "model.freeze leaves none" if names else "it has none"
        raise ConfigError(f"model={component.name} has no parameters to train: {why}")


def check_types(name: str, model: Model) -> list[str]:
    """A notice for weights in float16, whose small updates are lost. Raises ConfigError for tensors without
    values, on the meta device."""
    for key, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ConfigError(
                f"model={name}: {key} is on the meta device, without values", "make the model on the CPU"
            )
    half = sum(each.numel() for _, each in model.named_parameters() if each.dtype == torch.float16)
    if not half:
        return []
    remedy = "keep weights in float32; train.precision=bf16 computes in fewer digits"
    return [
        f"model={name}: {half} of its parameters train in float16, where small updates are lost; {remedy}"
    ]


def groups(config: Config, model: Model) -> list[Any]:
    """The parameters for the optimizer: the trainable ones, those of ``optim.no_decay`` without decay.

    ``biases`` and ``norms`` are kinds of parameters, anything else is a pattern of names. Raises ConfigError
    for one that matches nothing.
    """
    trainable = {name: item for name, item in model.named_parameters() if item.requires_grad}
    patterns = config.optim.common.get("no_decay", ())
    if not patterns:
        return list(trainable.values())
    if "weight_decay" not in OPTIMIZERS.signature(config.optim.name).names:
        raise ConfigError(f"optim.no_decay={show(patterns)}: optim={config.optim.name} has no weight decay")
    norms = {
        name
        for layer, module in named_modules(model)
        if any(kind in type(module).__name__ for kind in _NORMS)
        for name in trainable
        if name.rpartition(".")[0] == layer
    }
    excluded: set[str] = set()
    for pattern in patterns:
        if pattern == "biases":
            matching = {name for name in trainable if name.rpartition(".")[2] == "bias"}
        elif pattern == "norms":
            matching = norms & set(trainable)
        else:
            matching = {name for name in trainable if fnmatchcase(name, pattern)}
        if not matching:
            raise ConfigError(
                f"optim.no_decay={pattern}: matches no parameter",
                f"write biases, norms, or a pattern of: {some(list(trainable))}",
            )
        excluded |= matching
    decayed = [item for name, item in trainable.items() if name not in excluded]
    plain = {"params": [trainable[name] for name in trainable if name in excluded], "weight_decay": 0.0}
    return [*([{"params": decayed}] if decayed else []), plain]


def refuse_lazy(model: Model, setting: str) -> None:
    """Raise ConfigError for layers whose shapes are not known before the first batch."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(
                f"{setting}: {name} belongs to a lazy layer, which has no values before the first batch",
                "give the layer its input size: Linear(64, 10) instead of LazyLinear(10)",
            )


def best_of(run: str) -> CheckpointData:
    """The best checkpoint of another run. Nothing of the run's config is executed."""
    directory = find(run)
    try:
        return read_chosen(directory, read_record(directory), training=False)[1]
    except CheckpointError as error:
        raise CheckpointError(f"init_from={run}: {error}", "start from another run") from error


def copy_from(run: str, stored: Mapping[str, Tensor], model: Model) -> tuple[bool, str]:
    """Copy the parameters ``stored`` by another run into ``model`` where name and shape agree.

    Returns whether all of the model's were copied, and a notice. Raises ConfigError when nothing matches.
    """
    refuse_lazy(model, f"init_from={run}")
    own = model.state_dict()
    fits = {
        name: tensor for name, tensor in stored.items() if name in own and own[name].shape == tensor.shape
    }
    other = [name for name in own if name not in fits]
    if not fits:
        raise ConfigError(
            f"init_from={run}: no tensor of that run has the name and shape of one of the model's",
            f"the model has: {some(list(own))}",
        )
    model.load_state_dict(fits, strict=False)
    report = f"init_from={Path(run)}: {len(fits)} of {len(own)} tensors copied"
    return not other, report + (f"; new: {some(other)}" if other else "")
