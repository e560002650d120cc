"""The groups of jobs that can train as one stacked model. No torch: it is asked before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from trainctl.config.settings import Component, Config
from trainctl.registry import COMPONENTS
from trainctl.registry.constraints import show

_OPTIMIZERS = ("sgd", "sgd_momentum", "adam", "adamw")
# Each model of a stack can have its own of these.
_OWN_ARGUMENTS = ("lr", "weight_decay", "momentum")
_OWN = ("seed", "name")
# These do not touch the training.
_OUTSIDE = ("display", "sweep")
_RANDOM_LAYERS = ("Dropout", "FeatureAlphaDropout", "AlphaDropout", "RReLU")
_STATEFUL_LAYERS = ("BatchNorm", "SyncBatchNorm")


def plan(configs: Sequence[Config]) -> tuple[list[list[int]], dict[int, str]]:
    """The groups that can train as one model each, and why each of the other jobs trains alone.

    Both name jobs by their number in ``configs``. :func:`trainctl.sweep.fused.train_group` finds what only
    the built model shows.
    """
    alone: dict[int, str] = {}
    groups: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        if (reason := next(_reasons(config), None)) is None:
            groups.setdefault(_shape(config), []).append(number)
        else:
            alone[number] = reason
    for members in groups.values():
        if len(members) == 1:
            alone[members[0]] = "no other job differs from it in seed, lr, weight decay and momentum only"
    return [members for members in groups.values() if len(members) > 1], alone


def _shape(config: Config) -> str:
    """Equal for the jobs of a group."""
    parts = []
    for name in (field.name for field in fields(config) if field.name not in (*_OWN, *_OUTSIDE)):
        value = getattr(config, name)
        if isinstance(value, Component):
            own = _OWN_ARGUMENTS if name == "optim" else ()
            arguments = [item for item in sorted(_arguments(value).items()) if item[0] not in own]
            value = (value.name, arguments, sorted(value.common.items()))
        parts.append(f"{name}={value!r}")
    return "\n".join(parts)


def _reasons(config: Config) -> Iterator[str]:
    """Why a job trains alone."""
    train, guard = config.train, config.guard
    if config.loop.name != "optimizer":
        yield f"loop={config.loop.name} has steps of its own"
    if config.optim.name not in _OPTIMIZERS:
        yield f"optim={config.optim.name} has no stacked form"
    if config.scheduler.name == "reduce_on_plateau":
        yield "scheduler=reduce_on_plateau waits for each model's own evaluations"
    if config.loader.name not in ("auto", "resident"):
        yield f"loader={config.loader.name} makes batches for one model"
    if config.devices != 1:
        yield f"devices={config.devices} trains one model"
    if config.device == "mps":
        yield "device=mps has no stacked form"
    plain: dict[str, Any] = {"accumulate": 1, "precision": "fp32", "activation_checkpoint": []}
    plain |= dict.fromkeys(("micro_batch", "clip_norm", "ema", "overfit_batches"))
    for key, value in plain.items():
        if getattr(train, key) != value:
            yield f"train.{key}={show(getattr(train, key))} has no stacked form"
    if train.capture is True:
        yield "train.capture=true records the step of one model"
    if guard.gradients:
        yield "guard.gradients=true checks the gradients of one model"
    if guard.skip:
        yield f"guard.skip={guard.skip} leaves out steps of one model"
    for key in ("compile", "profile", "system_metrics"):
        if getattr(config, key):
            yield f"{key}={show(getattr(config, key))} is for one model"
    if config.trackers:
        yield f"tracker={','.join(sorted(each.name for each in config.trackers.values()))} follows one run"
    if config.checkpoint.mirror is not None:
        yield "checkpoint.mirror follows one run"
    if augment := config.dataset.common.get("augment"):
        yield f"dataset.augment={show(augment)} draws for each seed"
    for key, off in (("sampling", "uniform"), ("mixup", None), ("cutmix", None)):
        if (value := config.dataset.common.get(key, off)) != off:
            yield f"dataset.{key}={show(value)} is for one model"
    yield from _of_model(config.model)


def _of_model(model: Component) -> Iterator[str]:
    arguments = _arguments(model)
    if model.name.startswith("scratch_"):
        yield f"model={model.name} is no module of torch"
    if model.name == "torchvision":
        yield "model=torchvision has batch normalization or dropout"
    if arguments.get("dropout"):
        yield f"model.dropout={show(arguments['dropout'])} draws random numbers"
    if arguments.get("normalization") == "batch":
        yield "model.normalization=batch keeps running statistics"
    for layer in arguments.get("layers") or ():
        name = str(next(iter(layer), "") if isinstance(layer, dict) else layer)
        if name.startswith(_RANDOM_LAYERS):
            yield f"its layer {name} draws random numbers"
        if name.startswith(_STATEFUL_LAYERS):
            yield f"its layer {name} keeps running statistics"


def _arguments(component: Component) -> dict[str, Any]:
    """A component's arguments, with the defaults of its signature."""
    parameters = COMPONENTS[component.group].signature(component.name).parameters
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if not parameter.required and parameter.name not in component.common
    }
    return {**defaults, **component.arguments}
