"""Run settings and the check that turns a composed config into plain, typed objects.

Everything here works on plain dictionaries and imports neither Hydra nor torch: a wrong key is found in
well under a second. All problems of a config are reported at once.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic import create_model as create_pydantic_model

from trainctl.config.overrides import ALIASES
from trainctl.errors import ConfigError, Problem, nearest
from trainctl.registry import COMPONENTS, METRICS, TRACKERS, Parameter, Registry
from trainctl.registry.constraints import Count, Fraction, NonNegative, NonNegativeInt, Positive, Seed

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)
M = TypeVar("M", bound=BaseModel)


class _Settings(BaseModel):
    model_config = _STRICT


class Train(_Settings):
    """How long and how to train."""

    epochs: Count | None
    max_steps: Count | None
    batch_size: Count
    accumulate: Count
    precision: Literal["fp32", "bf16"]
    matmul: Literal["highest", "high", "medium"]
    capture: bool | Literal["auto"]
    clip_norm: Positive | None
    ema: Fraction | None
    overfit_batches: Count | None
    metrics: Annotated[
        Literal["auto"] | list[str | Annotated[dict[str, dict[str, Any]], annotated_types.Len(1, 1)]],
        Field(description="auto, or a list such as [accuracy, {top_k_accuracy: {k: 3}}]"),
    ]
    monitor: Annotated[str, Field(pattern=r"^(auto|val/[a-z0-9_]+)$", description="auto, or val/METRIC")]
    patience: Count | None
    min_delta: NonNegative


class Checkpoint(_Settings):
    """When to save, and how many to keep beside the best."""

    every_epochs: Literal["auto"] | Count | None
    every_steps: Count | None
    every_minutes: Positive | None
    keep_last: Count
    keep_best: Count
    overlap: bool


class Guard(_Settings):
    """What is checked while training."""

    loss: bool
    gradients: bool
    skip: NonNegativeInt


class Display(_Settings):
    """What is shown while training."""

    mode: Literal["auto", "rich", "plain", "none"]
    every: Count | None


class Sweep(_Settings):
    """How the jobs of a sweep are run."""

    jobs: Literal["auto"] | Annotated[int, annotated_types.Ge(1), annotated_types.Le(1024)]
    fail_fast: bool


class _Top(_Settings):
    seed: Seed
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps")
    ]
    threads: Literal["auto"] | Annotated[int, annotated_types.Ge(1), annotated_types.Le(1024)]
    deterministic: bool
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"]
    profile: bool
    name: str | None
    init_from: str | None
    plugins: list[str]
    pictures: bool


_GROUPS: dict[str, type[_Settings]] = {
    "train": Train,
    "checkpoint": Checkpoint,
    "guard": Guard,
    "display": Display,
    "sweep": Sweep,
}


@dataclass(frozen=True)
class Component:
    """A chosen component: its registered name, its constructor's arguments and the common ones."""

    group: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """One run's checked config: plain objects from here on."""

    seed: int
    device: str
    threads: int | Literal["auto"]
    deterministic: bool
    compile: bool | Literal["default", "reduce-overhead", "max-autotune"]
    profile: bool
    name: str | None
    init_from: str | None
    plugins: tuple[str, ...]
    pictures: bool
    train: Train
    checkpoint: Checkpoint
    guard: Guard
    display: Display
    sweep: Sweep
    model: Component
    loss: Component
    optim: Component
    scheduler: Component
    dataset: Component
    loader: Component
    loop: Component
    metrics: tuple[Component, ...] | None
    """What ``train.metrics`` lists; None chooses by task."""
    trackers: Mapping[str, Component]
    """By label, which is the name unless there are two of one kind."""


def known_keys() -> list[str]:
    """Every key that can be typed without knowing which components are chosen."""
    settings = [f"{group}.{key}" for group, model in _GROUPS.items() for key in model.model_fields]
    groups = [*_GROUPS, *COMPONENTS, TRACKERS.group, "experiment", "debug"]
    return sorted([*_Top.model_fields, *settings, *groups, *ALIASES])


def check(values: Mapping[str, Any]) -> Config:
    """Check a composed config (plain dictionaries, interpolations resolved).

    Raises ConfigError with every problem found: unknown keys with the nearest valid one, missing
    arguments, wrong types, values out of range.
    """
    problems: list[Problem] = []
    groups = (*_GROUPS, *COMPONENTS, TRACKERS.group)
    top = {key: value for key, value in values.items() if key not in groups}
    parts: dict[str, Any] = {"": _validate(_Top, "", top, problems)}
    for group, model in _GROUPS.items():
        node = values.get(group)
        if not isinstance(node, Mapping):
            problems.append(_not_a_group(group, values, f"{group}=default"))
            continue
        parts[group] = _validate(model, group, node, problems)
    components = {
        group: check_component(registry, values.get(group), problems)
        for group, registry in COMPONENTS.items()
    }
    metrics = check_metrics(values.get("train"), problems)
    trackers = check_trackers(values.get(TRACKERS.group), problems)
    name = values.get("name")
    if isinstance(name, str) and (name in ("", "last") or "/" in name):
        problems.append(
            Problem(f"name={name}: cannot name a run", "last means the newest run, a / a directory")
        )
    train = parts.get("train")
    if train is not None and train.epochs is None and train.max_steps is None:
        problems.append(Problem("train.epochs and train.max_steps are both null", "set one, e.g. epochs=5"))
    if problems:
        raise ConfigError(problems)
    top_settings = parts.pop("")
    return Config(
        **{**top_settings.model_dump(), "plugins": tuple(top_settings.plugins)},
        **parts,
        **typing.cast(Any, components),
        metrics=metrics,
        trackers=trackers,
    )


def check_settings(model: type[M], prefix: str, values: Mapping[str, Any]) -> M:
    """``values`` as the settings that ``model`` describes. Raises ConfigError with every problem."""
    problems: list[Problem] = []
    checked = _validate(model, prefix, values, problems)
    if checked is None:
        raise ConfigError(problems)
    return checked


def check_component(registry: Registry, node: Any, problems: list[Problem]) -> Component | None:
    """Check one component's node (``name`` and arguments) against its signature; None when it is wrong."""
    group = registry.group
    if not isinstance(node, Mapping):
        shown = {} if node is None else {group: node}
        off = f"{group}=none turns it off; or " if "none" in registry.names() else ""
        problems.append(_not_a_group(group, shown, f"{off}choose one of: {', '.join(registry.names())}"))
        return None
    name = node.get("name")
    if not isinstance(name, str) or name not in registry.names():
        problems.extend(registry.unknown(str(name)).problems)
        return None
    arguments = {str(key): value for key, value in node.items() if key != "name"}
    return _check_arguments(registry, name, arguments, group, problems)


def check_metrics(train: Any, problems: list[Problem]) -> tuple[Component, ...] | None:
    """Check what ``train.metrics`` lists, given the whole group; None when the task is to choose.

    An entry that is neither a name nor a name with arguments is left to the check of the settings.
    """
    entries = train.get("metrics") if isinstance(train, Mapping) else None
    if not isinstance(entries, list):
        return None
    named = [({entry: {}} if isinstance(entry, str) else entry) for entry in entries]
    pairs = [pair for entry in named if isinstance(entry, Mapping) for pair in entry.items()]
    metrics: dict[str, Component | None] = {}
    for name, arguments in pairs:
        if name not in METRICS.names():
            close = nearest(str(name), METRICS.names())
            remedy = f"did you mean {close}? " if close else ""
            problems.append(
                Problem(
                    f"train.metrics={name}: there is no such metric",
                    f"{remedy}there are: {', '.join(METRICS.names())}",
                )
            )
        elif name in metrics:
            problems.append(Problem(f"train.metrics={name}: named twice", "its values would have one name"))
        elif isinstance(arguments, Mapping):
            key = f"train.metrics.{name}"
            given = {str(argument): value for argument, value in arguments.items()}
            metrics[name] = _check_arguments(METRICS, name, given, key, problems)
    return tuple(metric for metric in metrics.values() if metric is not None)


def check_trackers(node: Any, problems: list[Problem]) -> dict[str, Component]:
    """Check what ``tracker`` holds: a component a label. One without a name is set, but not chosen."""
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        remedy = f"in a file: {{defaults: [override /tracker: {show(node)}]}}"
        problems.append(Problem(f"tracker={show(node)}: an option is chosen, not a value set", remedy))
        return {}
    chosen: dict[str, Component] = {}
    for label, entry in node.items():
        key = f"{TRACKERS.group}.{label}"
        if not isinstance(entry, Mapping):
            remedy = f"one without an option file: {TRACKERS.group}.LABEL.name=NAME"
            problems.append(Problem(f"{key}={show(entry)}: this is a tracker, not a value", remedy))
            continue
        name = entry.get("name", label)
        if name not in TRACKERS.names():
            close = nearest(str(name), TRACKERS.names())
            remedy = f"did you mean {close}? " if close else ""
            given = f"{key}.name={show(name)}" if "name" in entry else key
            problems.append(
                Problem(
                    f"{given}: there is no such tracker", f"{remedy}there are: {', '.join(TRACKERS.names())}"
                )
            )
            continue
        arguments = {str(argument): value for argument, value in entry.items() if argument != "name"}
        component = _check_arguments(TRACKERS, name, arguments, key, problems)
        if component is not None and "name" in entry:
            chosen[str(label)] = component
    return chosen


def _check_arguments(
    registry: Registry, name: str, arguments: dict[str, Any], prefix: str, problems: list[Problem]
) -> Component | None:
    """Check a member's arguments against its signature; ``prefix`` is what their keys begin with."""
    for key in sorted(registry.supplied & set(arguments)):
        problems.append(
            Problem(
                f"{prefix}.{key}={show(arguments.pop(key))}: trainctl sets this itself",
                f"leave {prefix}.{key} out",
            )
        )
    parameters = registry.signature(name).parameters
    model = _component_model(name, parameters)
    checked = _validate(model, prefix, arguments, problems, owner=f"{registry.noun} {name}")
    if checked is None:
        return None
    chosen = {
        parameter.name: getattr(checked, f"argument_{index}")
        for index, parameter in enumerate(parameters)
        if f"argument_{index}" in checked.model_fields_set or parameter.name in registry.common
    }
    common = {key: chosen.pop(key) for key in registry.common}
    return Component(registry.group, name, chosen, common)


def _component_model(name: str, parameters: Iterable[Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(parameters):
        default = ... if parameter.required else parameter.default
        fields[f"argument_{index}"] = (
            _checkable(parameter.annotation),
            Field(default=default, alias=parameter.name),
        )
    return create_pydantic_model(name, __config__=_STRICT, **fields)


def _checkable(annotation: Any) -> Any:
    """The annotation, or Any for a type that no YAML value can have (a torch class, say)."""
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return Any
    return annotation


def _validate(
    model: type[M], prefix: str, values: Mapping[str, Any], problems: list[Problem], owner: str = ""
) -> M | None:
    seen: set[str] = set()
    checked: M | None = None
    try:
        # JSON, because strict validation of Python objects would refuse a YAML list for a tuple.
        checked = model.model_validate_json(json.dumps(dict(values)))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0]) if detail["loc"] else ""
            if key not in seen:
                seen.add(key)
                kind = detail["type"] if len(detail["loc"]) == 1 else "inside"
                problems.append(_explain(model, prefix, key, kind, values, owner))
    # Where the type is not known, pydantic lets NaN and infinity pass.
    for key in [key for key, value in values.items() if key not in seen and not _finite(value)]:
        full = f"{prefix}.{key}" if prefix else key
        problems.append(
            Problem(f"{full}={show(values[key])}: must be finite", "NaN and infinity are no settings")
        )
        checked = None
    return checked


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True


def _explain(
    model: type[BaseModel], prefix: str, key: str, kind: str, values: Mapping[str, Any], owner: str
) -> Problem:
    full = f"{prefix}.{key}" if prefix else key
    fields = {(info.alias or name): info for name, info in model.model_fields.items()}
    if kind == "extra_forbidden":
        if not owner:
            return unknown_key(full)
        close = nearest(key, fields)
        remedy = f"did you mean {prefix}.{close}? " if close else ""
        takes = f"{owner} takes: {', '.join(fields)}" if fields else f"{owner} takes no arguments"
        return Problem(f"{full}={show(values[key])}: {owner} has no argument {key!r}", remedy + takes)
    info = fields[key]
    needed = info.description or describe(
        Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    )
    if kind == "missing":
        return Problem(
            f"{full} is missing{f': {owner} needs it' if owner else ''}", f"set {full}=… to {needed}"
        )
    return Problem(
        f"{full}={show(values[key])}: must be {needed}", f"default: {_default(info)}" if owner else ""
    )


def _default(info: Any) -> str:
    return "none, it is required" if info.is_required() else show(info.default)


def unknown_key(key: str) -> Problem:
    """The problem of a key that exists nowhere, with the nearest that does."""
    if key in ALIASES:
        return Problem(
            f"{key}: short for {ALIASES[key]} on the command line only", f"in a file write {ALIASES[key]}"
        )
    group, dot, leaf = key.partition(".")
    if dot and group in _GROUPS:
        fields = list(_GROUPS[group].model_fields)
        close = nearest(leaf, fields)
        remedy = f"did you mean {group}.{close}? " if close else ""
        return Problem(f"{key}: there is no such key", f"{remedy}{group} has: {', '.join(fields)}")
    close = nearest(key, known_keys())
    remedy = f"did you mean {close}?" if close else "trainctl --cfg job shows all keys"
    return Problem(f"{key}: there is no such key", remedy)


def _not_a_group(group: str, values: Mapping[str, Any], remedy: str) -> Problem:
    value = values.get(group)
    if value is None:
        return Problem(f"{group}=null: a run needs this group", remedy)
    return Problem(f"{group}={show(value)}: this is a group of settings, not a value", remedy)


def show(value: Any) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


def describe(annotation: Any) -> str:
    """A type and its range in words: ``Count`` is "a whole number of at least 1"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        bounds = [text for item in arguments[1:] for text in _bound(item)]
        return (
            " and ".join([f"{describe(arguments[0])} {bounds[0]}", *bounds[1:]])
            if bounds
            else describe(arguments[0])
        )
    if origin is Literal:
        return (
            "one of " + ", ".join(show(item) for item in arguments)
            if len(arguments) > 1
            else show(arguments[0])
        )
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(item) for item in arguments)
    if origin is list:
        return f"a list in which each item is {describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {describe(arguments[0])}"
    words: dict[Any, str] = {
        type(None): "null",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
        Any: "any value",
    }
    return words.get(origin or annotation) or str(getattr(annotation, "__name__", annotation))


def _bound(item: Any) -> list[str]:
    match item:
        case annotated_types.Ge(ge=bound):
            return [f"of at least {bound}"]
        case annotated_types.Gt(gt=bound):
            return [f"greater than {bound}"]
        case annotated_types.Lt(lt=bound):
            return [f"below {'2**63' if bound == 2**63 else bound}"]
        case annotated_types.Le(le=bound):
            return [f"of at most {bound}"]
    return []


__all__ = [
    "Checkpoint",
    "Component",
    "Config",
    "Display",
    "Guard",
    "Train",
    "check",
    "check_component",
    "check_metrics",
    "check_trackers",
    "describe",
    "known_keys",
    "show",
    "unknown_key",
]
