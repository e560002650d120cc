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
from trainctl.checkpoint.mirrored import located
from trainctl.checkpoint.retention import read_chosen
from trainctl.config.parameter_groups import SCALE
from trainctl.config.settings import Component, Config
from trainctl.errors import CheckpointError, ConfigError, did_you_mean
from trainctl.registry import OPTIMIZERS
from trainctl.registry.constraints import show, some
from trainctl.registry.protocols import Model, named_modules
from trainctl.runs.bucket import is_url
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
        if getattr(tensor, "is_meta", False):
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
    """The parameters for the optimizer: the trainable ones, in groups of equal settings where
    ``optim.no_decay``, ``layer_decay`` or ``groups`` name some; first those with the optimizer's own.

    Raises ConfigError for a pattern that matches nothing.
    """
    trainable = {name: item for name, item in model.named_parameters() if item.requires_grad}
    settings = _settings(config, model, trainable)
    if not any(settings.values()):
        return list(trainable.values())
    joined: dict[str, dict[str, Any]] = {}
    for name in sorted(trainable, key=lambda name: bool(settings[name])):
        own = settings[name]
        joined.setdefault(repr(sorted(own.items())), {"params": [], **own})["params"].append(trainable[name])
    return list(joined.values())


def described_groups(config: Config, model: Model) -> str:
    """What ``optim.layer_decay`` and ``optim.groups`` do, in words; empty without."""
    trainable = [name for name, item in model.named_parameters() if item.requires_grad]
    decay, said = config.optim.common.get("layer_decay"), []
    if decay is not None:
        layers = _layers(config, model, trainable)
        depth, lr = max(layers.values()) - min(layers.values()), _lr(config)
        said = [f"layer_decay {decay:g}: lr {lr:g} down to {lr * decay**depth:.3g} in {depth + 1} layers"]
    said += [
        f"{pattern} {', '.join(f'{key} {show(value)}' for key, value in chosen.items())}"
        f" ({sum(fnmatchcase(name, pattern) for name in trainable)} of {len(trainable)} tensors)"
        for pattern, chosen in config.optim.common.get("groups", {}).items()
    ]
    return "; ".join(said)


def _settings(config: Config, model: Model, trainable: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of each parameter that differ from the optimizer's; of several patterns the last wins."""
    settings: dict[str, dict[str, Any]] = {name: {} for name in trainable}
    for name in _undecayed(config, model, trainable):
        settings[name]["weight_decay"] = 0.0
    lr, names = _lr(config), list(trainable)
    if (decay := config.optim.common.get("layer_decay")) is not None:
        layers = _layers(config, model, names)
        for name in names:
            below = max(layers.values()) - layers[name]
            settings[name] |= {"lr": lr * decay**below} if below else {}
    for pattern, chosen in config.optim.common.get("groups", {}).items():
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            parts = [f"{name.rpartition('.')[0]}.*" for name in names if "." in name]
            raise ConfigError(
                f"optim.groups.{pattern}: matches no parameter that trains",
                f"{did_you_mean(pattern, [*names, *parts])}there are: {some(names)}",
            )
        own: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()
        }
        if SCALE in own:
            own["lr"] = own.pop(SCALE) * lr
        for name in matching:
            settings[name] |= own
    return settings


def _lr(config: Config) -> float:
    """The learning rate of the optimizer; 0 for one that has none."""
    defaults = {each.name: each.default for each in OPTIMIZERS.signature(config.optim.name).parameters}
    return float(config.optim.arguments.get("lr", defaults.get("lr", 0.0)))


def _layers(config: Config, model: Any, names: list[str]) -> dict[str, int]:
    """The number of each parameter's layer, the last one largest. Raises ConfigError where nobody knows."""
    layers = getattr(model, "parameter_layers", None)
    given = f"optim.layer_decay={config.optim.common['layer_decay']}"
    if layers is None:
        raise ConfigError(
            f"{given}: model={config.model.name} does not say which layer a parameter is in",
            "use model=timm; a model of one's own has parameter_layers: a number for each parameter's name",
        )
    if not _lr(config):
        raise ConfigError(f"{given}: optim={config.optim.name} has no learning rate", "use optim=adamw")
    if unknown := [name for name in names if name not in layers]:
        raise ConfigError(f"{given}: the model's parameter_layers lack {some(unknown)}", "add them")
    return {name: int(layers[name]) for name in names}


def _undecayed(config: Config, model: Model, trainable: Mapping[str, Any]) -> set[str]:
    """The parameters of ``optim.no_decay``: ``biases`` and ``norms`` are kinds of parameters, anything else
    is a pattern of names. Raises ConfigError for one that matches nothing."""
    patterns = config.optim.common.get("no_decay", ())
    if not patterns:
        return set()
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
    return excluded


def check_groups_of(optimizer: Any) -> None:
    """Raise ConfigError for a setting of a group that its optimizer, or one of several, does not read."""
    for part in getattr(optimizer, "parts", [optimizer]):
        for group in part.param_groups:
            if unread := set(group) - set(part.defaults) - {"params", "initial_lr"}:
                raise ConfigError(
                    f"optim.groups: {type(part).__name__} has no {', '.join(sorted(unread))}",
                    f"there are: {', '.join(sorted(part.defaults))}",
                )


def refuse_lazy(model: Model, setting: str) -> None:
    """Raise ConfigError for layers whose shapes are not known before the first batch."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(
                f"{setting}: {name} belongs to a lazy layer, which has no values before the first batch",
                "give the layer its input size: Linear(64, 10) instead of LazyLinear(10)",
            )


def best_of(run: str) -> CheckpointData:
    """The best checkpoint of another run, or of its mirror. Nothing of the run's config is executed."""
    directory, _ = located(run)
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
    report = f"init_from={run if is_url(run) else Path(run)}: {len(fits)} of {len(own)} tensors copied"
    return not other, report + (f"; new: {some(other)}" if other else "")
