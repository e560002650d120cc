"""The check that turns a composed config into a :class:`Config`, with every problem reported at once.

It works on plain dictionaries and imports neither Hydra nor torch: a wrong key is found in a fraction of a
second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic import create_model as create_pydantic_model

from trainctl.config.options import find_options, read_option
from trainctl.config.overrides import ALIASES
from trainctl.config.parameter_groups import check_groups
from trainctl.config.settings import GROUPS, STRATEGIES, STRICT, Component, Config, TopLevel
from trainctl.errors import ConfigError, Problem, did_you_mean, nearest
from trainctl.registry import COMPONENTS, METRICS, TASKS, TRACKERS, Parameter, Registry, plugins
from trainctl.registry.constraints import describe, show

M = TypeVar("M", bound=BaseModel)


def known_keys() -> list[str]:
    """Every key that can be typed without knowing which components are chosen."""
    models = [*GROUPS.items(), *(("strategy", model) for model in STRATEGIES.values())]
    settings = {f"{group}.{key}" for group, model in models for key in model.model_fields}
    groups = [*GROUPS, *COMPONENTS, TRACKERS.group, "experiment", "debug"]
    return sorted([*TopLevel.model_fields, *settings, *groups, *ALIASES])


def check(values: Mapping[str, Any]) -> Config:
    """Check a composed config (plain dictionaries, interpolations resolved).

    Raises ConfigError with every problem found: unknown keys with the nearest valid one, missing
    arguments, wrong types, values out of range.
    """
    problems: list[Problem] = []
    groups = (*GROUPS, *COMPONENTS, TRACKERS.group)
    top = {key: value for key, value in values.items() if key not in groups}
    parts: dict[str, Any] = {"": _validate(TopLevel, "", top, problems)}
    for group, model in GROUPS.items():
        node = values.get(group)
        if not isinstance(node, Mapping):
            problems.append(_not_a_group(group, node, f"{group}=default"))
            continue
        if group == "strategy":
            model = STRATEGIES.get(str(node.get("name")), model)
        parts[group] = _validate(model, group, node, problems)
    components = {
        group: check_component(registry, values.get(group), problems)
        for group, registry in COMPONENTS.items()
    }
    metrics = check_metrics(values.get("train"), problems)
    trackers = check_trackers(values.get(TRACKERS.group), problems)
    name, train = values.get("name"), parts.get("train")
    if isinstance(name, str) and (name in ("", "last") or "/" in name or not name.isprintable()):
        problems.append(
            Problem(
                f"name={name}: not a valid name for a run",
                "last means the newest run, a / a directory; a name is one line of visible characters",
            )
        )
    if train is not None and train.epochs is None and train.max_steps is None:
        problems.append(Problem("train.epochs and train.max_steps are both null", "set one, e.g. epochs=5"))
    if (optim := components["optim"]) is not None:
        problems += check_groups(optim.name, optim.common["groups"])
    if (dataset := components["dataset"]) is not None:
        problems += _check_folds(dataset.common["folds"], dataset.common["fold"])
        asked = dataset.common["as_task"]
        _check_named(TASKS, "dataset.as_task", [] if asked is None else [asked], problems)
    if problems:
        raise ConfigError(problems)
    top_level = parts.pop("").model_dump()
    return Config(
        **{**top_level, "plugins": tuple(top_level["plugins"])},
        **parts,
        **cast(Any, components),
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


# ---------------------------------------------------------------- components


def check_component(registry: Registry, node: Any, problems: list[Problem]) -> Component | None:
    """Check one component's node (``name`` and arguments) against its signature; None when it is wrong."""
    group = registry.group
    if not isinstance(node, Mapping):
        off = f"{group}=none turns it off; or " if "none" in registry.names() else ""
        problems.append(_not_a_group(group, node, f"{off}choose one of: {', '.join(registry.names())}"))
        return None
    name = node.get("name")
    if not isinstance(name, str) or name not in registry.names():
        problems.extend(registry.unknown(str(name)).problems)
        return None
    return _check_arguments(registry, name, _without_name(node), group, problems)


def _check_folds(folds: int | None, fold: int | None) -> list[Problem]:
    if folds is None and fold is not None:
        return [Problem(f"dataset.fold={fold}: of how many?", f"add dataset.folds={max(5, fold + 1)}")]
    if folds is not None and not 0 <= (-1 if fold is None else fold) < folds:
        given = f"dataset.folds={folds}" + ("" if fold is None else f" dataset.fold={fold}")
        every = ",".join(map(str, range(folds))) if folds <= 10 else f"range({folds})"
        return [Problem(f"{given}: choose a fold, 0 to {folds - 1}", f"all of them: -m dataset.fold={every}")]
    return []


def check_metrics(train: Any, problems: list[Problem]) -> tuple[Component, ...] | None:
    """Check the list in ``train.metrics``, given the whole group; None when it is ``auto``.

    An entry that is neither a name nor a name with arguments is left to the check of the settings.
    """
    entries = train.get("metrics") if isinstance(train, Mapping) else None
    return _check_named(METRICS, "train.metrics", entries, problems) if isinstance(entries, list) else None


def _check_named(
    registry: Registry, key: str, entries: list[Any], problems: list[Problem]
) -> tuple[Component, ...]:
    """Check the members that ``key`` names: each a name, or a name with arguments."""
    named = [({entry: {}} if isinstance(entry, str) else entry) for entry in entries]
    pairs = [pair for entry in named if isinstance(entry, Mapping) for pair in entry.items()]
    found: dict[str, Component | None] = {}
    for name, arguments in pairs:
        if name not in registry.names():
            problems.append(_unknown_member(registry, f"{key}={name}", name))
        elif name in found:
            problems.append(Problem(f"{key}={name}: listed twice", f"list each {registry.noun} once"))
        elif isinstance(arguments, Mapping):
            given = {str(argument): value for argument, value in arguments.items()}
            found[name] = _check_arguments(registry, name, given, f"{key}.{name}", problems)
    return tuple(each for each in found.values() if each is not None)


def check_trackers(node: Any, problems: list[Problem]) -> dict[str, Component]:
    """Check the group ``tracker``: one component for each label. Without a name it is not chosen."""
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        remedy = f"in a file: {{defaults: [override /tracker: {show(node)}]}}"
        problems.append(
            Problem(f"tracker={show(node)}: must be chosen as an option, not set as a value", remedy)
        )
        return {}
    chosen: dict[str, Component] = {}
    targets: dict[Any, Any] = {}
    for label, entry in node.items():
        key = f"{TRACKERS.group}.{label}"
        if not isinstance(entry, Mapping):
            remedy = f"without an option file: {TRACKERS.group}.LABEL.name=NAME"
            problems.append(Problem(f"{key}={show(entry)}: must be a tracker, not a value", remedy))
            continue
        name = entry.get("name", label)
        if name not in TRACKERS.names():
            given = f"{key}.name={show(name)}" if "name" in entry else key
            problems.append(_unknown_member(TRACKERS, given, name))
            continue
        component = _check_arguments(TRACKERS, name, _without_name(entry), key, problems)
        if component is None or "name" not in entry:
            continue
        target = (name, component.arguments.get("uri"))
        if target in targets:
            other = f"{TRACKERS.group}.{targets[target]}"
            problems.append(Problem(f"{key}: {other} writes to the same place", "leave one of them out"))
        targets[target] = label
        chosen[str(label)] = component
    return chosen


def _without_name(node: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if key != "name"}


def _unknown_member(registry: Registry, given: str, name: Any) -> Problem:
    remedy = did_you_mean(str(name), registry.names()) + plugins.hint(str(name), given)
    return Problem(
        f"{given}: there is no such {registry.noun}", f"{remedy}there are: {', '.join(registry.names())}"
    )


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
    if registry.is_plugin_function(name) and (needed := _of_unknown_type(parameters, arguments)):
        given = f"; trainctl gives {', '.join(sorted(registry.supplied))}" if registry.supplied else ""
        problems.append(
            Problem(
                f"{prefix}={name}: its function is called once, before training, and needs"
                f" {', '.join(needed)}",
                f"a registered function makes the {registry.noun} and returns it (an nn.Module, say), or"
                f" register a class; a setting is typed as {prefix}.{needed[0]}=…{given}",
            )
        )
        return None
    model = _component_model(registry, name, parameters)
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


def _of_unknown_type(parameters: Iterable[Parameter], given: Collection[str]) -> list[str]:
    """The required arguments that are not given and that no YAML value may fit, such as tensors."""
    missing = [each for each in parameters if each.required and each.name not in given]
    return [each.name for each in missing if _checkable(each.annotation) is Any]


_models: dict[tuple[str, str], tuple[Sequence[Parameter], type[BaseModel]]] = {}
"""By group and name, with the parameters that each was made of: making one takes longer than a check."""


def _component_model(registry: Registry, name: str, parameters: Sequence[Parameter]) -> type[BaseModel]:
    made_of, model = _models.get((registry.group, name), (None, None))
    # Not by ==: a default that is a tensor has no single answer.
    if model is None or made_of is None or not _same(made_of, parameters):
        model = _made_model(name, parameters)
        _models[registry.group, name] = parameters, model
    return model


def _same(some: Sequence[Parameter], others: Sequence[Parameter]) -> bool:
    return len(some) == len(others) and all(
        one.name == other.name and one.annotation == other.annotation and one.default is other.default
        for one, other in zip(some, others, strict=True)
    )


def _made_model(name: str, parameters: Iterable[Parameter]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        f"argument_{index}": (
            _checkable(parameter.annotation),
            Field(default=... if parameter.required else parameter.default, alias=parameter.name),
        )
        for index, parameter in enumerate(parameters)
    }
    return create_pydantic_model(name, __config__=STRICT, **fields)


def _checkable(annotation: Any) -> Any:
    """The annotation, or Any for a type that no YAML value can have (a torch class, say)."""
    try:
        TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return Any
    return annotation


# ---------------------------------------------------------------- values


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
            if not detail["loc"]:  # of the JSON as a whole
                problems += _not_text(prefix, values) or [Problem(f"{prefix or owner}: {detail['msg']}")]
                return None
            key = str(detail["loc"][0])
            if key not in seen:
                seen.add(key)
                kind = detail["type"] if len(detail["loc"]) == 1 else "inside"
                problems.append(_problem(model, prefix, key, kind, values, owner))
    # For arguments of unknown type pydantic accepts NaN and infinity.
    for key in [key for key, value in values.items() if key not in seen and not _finite(value)]:
        problems.append(
            Problem(
                f"{_full_key(prefix, key)}={show(values[key])}: must be finite", "NaN and inf are refused"
            )
        )
        checked = None
    return checked


def _not_text(prefix: str, values: Mapping[str, Any]) -> list[Problem]:
    """A problem for each value with half a character, which bytes that are not UTF-8 become, too."""
    return [
        Problem(f"{_full_key(prefix, key)}={show(value)}: is not UTF-8 text", "use other characters")
        for key, value in values.items()
        if (text := json.dumps(value, ensure_ascii=False)).encode(errors="ignore").decode() != text
    ]


def _full_key(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list | tuple) else True


def _problem(
    model: type[BaseModel], prefix: str, key: str, kind: str, values: Mapping[str, Any], owner: str
) -> Problem:
    """The problem that pydantic found in ``key``, by pydantic's name for its kind."""
    full = _full_key(prefix, key)
    fields = {(info.alias or name): info for name, info in model.model_fields.items()}
    if kind == "extra_forbidden":
        if not owner:
            return unknown_key(full)
        remedy = did_you_mean(key, fields, f"{prefix}.")
        takes = f"{owner} takes: {', '.join(fields)}" if fields else f"{owner} takes no arguments"
        return Problem(f"{full}={show(values[key])}: {owner} has no argument {key!r}", remedy + takes)
    info = fields[key]
    needed = info.description or describe(
        Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    )
    if kind == "missing":
        needs = f": {owner} needs it" if owner else ""
        return Problem(f"{full} is missing{needs}", f"set {full}=… to {needed}")
    # What a run gets without the word is the option file's, where it says something.
    path = find_options().get(prefix, {}).get(owner.rpartition(" ")[2]) if owner else None
    written = read_option(path) if path else {}
    default = "none, it is required" if info.is_required() else show(info.default)
    default = show(written[key]) if key in written else default
    return Problem(f"{full}={show(values[key])}: must be {needed}", f"default: {default}" if owner else "")


def unknown_key(key: str) -> Problem:
    """The problem of a key that does not exist, with the nearest that does."""
    if key in ALIASES:
        return Problem(
            f"{key}: short for {ALIASES[key]} on the command line only", f"in a file write {ALIASES[key]}"
        )
    group, dot, leaf = key.partition(".")
    if dot and group in GROUPS:
        fields = list(GROUPS[group].model_fields)
        remedy = did_you_mean(leaf, fields, f"{group}.")
        if group == "strategy":
            owners = [name for name, model in STRATEGIES.items() if leaf in model.model_fields]
            remedy = f"it is one of strategy={owners[0]}; " if owners else remedy
        return Problem(f"{key}: there is no such key", f"{remedy}{group} has: {', '.join(fields)}")
    close = nearest(key, known_keys())
    remedy = f"did you mean {close}?" if close else "trainctl --cfg job shows all keys"
    return Problem(f"{key}: there is no such key", remedy)


def _not_a_group(group: str, value: Any, remedy: str) -> Problem:
    if value is None:
        return Problem(f"{group}=null: a run needs this group", remedy)
    return Problem(f"{group}={show(value)}: this is a group of settings, not a value", remedy)
