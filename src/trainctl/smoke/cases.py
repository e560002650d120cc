"""What there is to try: every option of every group and every experiment, found from the config tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainctl.config.options import find_options, options_in
from trainctl.config.overrides import split_override, to_hydra
from trainctl.errors import ConfigError, Problem, nearest
from trainctl.paths import conf_directory
from trainctl.registry import COMPONENTS, METRICS, MODELS, Registry

_EARLY = (MODELS.group, "experiment")
"""What takes longest: their models are exported."""


@dataclass(frozen=True)
class Case:
    """One thing to try: the words that choose it, and its group."""

    group: str
    label: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """What was typed: the cases to try, and the words that hold for all of them."""

    cases: list[Case]
    settings: tuple[str, ...]


def find_cases(
    typed: Sequence[str], known: Sequence[str], config_dir: str | None = None, *, own: bool = False
) -> Asked:
    """The cases that ``typed`` words select, or all; the other words are settings for every case.

    With ``own`` all is what does not come with trainctl.

    ``known`` are the groups that the base config has a place for. Components that only a plugin knows are
    cases, too: their plugin has been imported. Raises ConfigError for an option that is not there, with the
    nearest, and for a component's argument that no component takes.
    """
    options = _options(config_dir)
    chosen = _own(options) if own else options
    groups = {group: _cases(group, paths, known) for group, paths in chosen.items()}
    groups[METRICS.group] = [_metric(name) for name in (METRICS.foreign() if own else METRICS.names())]
    for registry in COMPONENTS.values():
        groups.setdefault(registry.group, []).extend(
            _by_name(registry.group, name) for name in _without_option(registry, options)
        )
    selected: list[Case] = []
    settings: list[str] = []
    problems: list[Problem] = []
    for word in typed:
        sign, key, value = split_override(word)
        if sign == "~":
            problems.append(Problem(f"{word}: smoke takes nothing out of a config", "it takes KEY=VALUE"))
            continue
        if key in groups or (key.endswith(".name") and key.removesuffix(".name") in COMPONENTS):
            selected += _select(key, value, groups, problems)
            continue
        if not _taken(key):
            problems.append(Problem(f"{word}: nothing takes such an argument", "trainctl ls GROUP=OPTION"))
        settings.append(to_hydra(word))
    if problems:
        raise ConfigError(problems)
    order = dict.fromkeys([*_EARLY, *COMPONENTS, *groups])
    everything = [case for group in order for case in groups.get(group, ())]
    if not everything:
        raise ConfigError(
            "--own: there is nothing that does not come with trainctl",
            "options of one's own are in ./conf or --config-dir, components in plugins=",
        )
    return Asked(list(dict.fromkeys(selected)) or everything, tuple(settings))


def _options(config_dir: str | None) -> dict[str, dict[str, Path]]:
    found = find_options()
    for group, name, path in options_in(Path(config_dir)) if config_dir is not None else ():
        found.setdefault(group, {}).setdefault(name, path)
    return found


def _own(options: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, Path]]:
    """The options whose files are not trainctl's."""
    shipped = conf_directory()
    return {
        group: {name: path for name, path in paths.items() if not path.is_relative_to(shipped)}
        for group, paths in options.items()
    }


def _cases(group: str, paths: Mapping[str, Path], known: Sequence[str]) -> list[Case]:
    sign = "" if group in known else "+"
    return [Case(group, f"{group}={name}", (f"{sign}{group}={name}",)) for name in sorted(paths)]


def _by_name(group: str, name: str) -> Case:
    return Case(group, f"{group}.name={name}", (f"{group}.name={name}",))


def _metric(name: str) -> Case:
    return Case(METRICS.group, f"{METRICS.group}={name}", (f"train.metrics=[{name}]",))


def _without_option(registry: Registry, options: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """Components that no option file names: those of plugins, most often."""
    paths = options.get(registry.group, {})
    named = {str(_read(path).get("name", stem)) for stem, path in paths.items()}
    return [name for name in registry.names() if name not in named]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, yaml.YAMLError):
        return {}  # composing it says what is wrong
    return content if isinstance(content, dict) else {}


def _select(
    key: str, value: str, groups: Mapping[str, Sequence[Case]], problems: list[Problem]
) -> list[Case]:
    found = []
    group = key.removesuffix(".name")
    for name in value.strip("[]").split(","):
        label = f"{key}={name.strip()}"
        case = next((each for each in groups[group] if each.label == label), None)
        if case is None and key != group and name.strip() in COMPONENTS[group].names():
            case = _by_name(group, name.strip())
        if case is None:
            there = [each.label.partition("=")[2] for each in groups[group]]
            close = nearest(name, there)
            remedy = f"did you mean {group}={close}? " if close else ""
            problems.append(
                Problem(f"{label}: there is no such option", f"{remedy}there are: {', '.join(there)}")
            )
        else:
            found.append(case)
    return found


def _taken(key: str) -> bool:
    """False for an argument of a component that no component of the group has."""
    group, _, rest = key.partition(".")
    if group not in COMPONENTS or not rest:
        return True
    registry, argument = COMPONENTS[group], rest.partition(".")[0]
    return any(argument in registry.signature(name).names for name in registry.names())
