"""The cases of a smoke run: every option of every group and every experiment, found in the config tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainctl.config.options import find_options, options_in, read_option
from trainctl.config.overrides import split_override, to_hydra
from trainctl.errors import ConfigError, Problem, did_you_mean
from trainctl.paths import conf_directory
from trainctl.registry import COMPONENTS, METRICS, MODELS, TASKS

_FIRST = (MODELS.group, "experiment")
"""The groups that take longest: their models are exported."""


@dataclass(frozen=True)
class Case:
    """One config to test: the group of its option, its label, the overrides that choose it.

    A task has none: its compatible config is the case.
    """

    group: str
    label: str
    words: tuple[str, ...]


def find_cases(
    typed: Sequence[str], known: Sequence[str], config_dir: str | None = None, *, own: bool = False
) -> tuple[list[Case], tuple[str, ...]]:
    """The cases that ``typed`` overrides select, or all of them; and the other overrides, which are settings
    of every case.

    Raises ConfigError for an option that does not exist, with the nearest, and for an argument that no
    component takes.

    Args:
        known: the groups in the base config's defaults.
        own: leave out the options and components that come with trainctl.
    """
    groups = _find_groups(known, config_dir, own)
    selected: list[Case] = []
    settings: list[str] = []
    problems: list[Problem] = []
    for word in typed:
        sign, key, value = split_override(word)
        if sign == "~":
            problems.append(Problem(f"{word}: smoke cannot remove a key", "use KEY=VALUE"))
        elif key in groups or (key.endswith(".name") and key.removesuffix(".name") in COMPONENTS):
            selected += _select(key, value, groups, problems)
        else:
            if not _is_taken(key):
                problems.append(
                    Problem(f"{word}: no component takes this argument", "trainctl ls GROUP=OPTION")
                )
            settings.append(to_hydra(word))
    if problems:
        raise ConfigError(problems)
    order = dict.fromkeys([*_FIRST, *COMPONENTS, *groups])
    everything = [case for group in order for case in groups.get(group, ())]
    if not everything:
        raise ConfigError(
            "--own: there are no options or components but trainctl's",
            "put options into ./conf or --config-dir, components into plugins=",
        )
    return list(dict.fromkeys(selected)) or everything, tuple(settings)


def _find_groups(known: Sequence[str], config_dir: str | None, own: bool) -> dict[str, list[Case]]:
    options, shipped = find_options(), conf_directory()
    for group, name, path in options_in(Path(config_dir)) if config_dir is not None else ():
        options.setdefault(group, {}).setdefault(name, path)
    groups: dict[str, list[Case]] = {}
    for group, paths in options.items():
        sign = "" if group in known else "+"
        groups[group] = [
            Case(group, f"{group}={name}", (f"{sign}{group}={name}",))
            for name, path in sorted(paths.items())
            if not (own and path.is_relative_to(shipped))
        ]
    groups[METRICS.group] = [
        Case(METRICS.group, f"{METRICS.group}={name}", (f"train.metrics=[{name}]",))
        for name in (METRICS.foreign() if own else METRICS.names())
    ]
    own_tasks = sorted({*TASKS.names()} - {*TASKS.foreign()})  # a dataset chooses those of plugins
    groups[TASKS.group] = [Case(TASKS.group, f"{TASKS.group}={name}", ()) for name in own_tasks if not own]
    for registry in COMPONENTS.values():
        # Components without an option file: those of plugins, most often.
        files = options.get(registry.group, {}).values()
        with_option = {str(read_option(path).get("name", path.stem)) for path in files}
        groups.setdefault(registry.group, []).extend(
            _by_name(registry.group, name) for name in registry.names() if name not in with_option
        )
    return groups


def _by_name(group: str, name: str) -> Case:
    return Case(group, f"{group}.name={name}", (f"{group}.name={name}",))


def _select(
    key: str, value: str, groups: Mapping[str, Sequence[Case]], problems: list[Problem]
) -> list[Case]:
    group = key.removesuffix(".name")
    known = {case.label: case for case in groups[group]}
    if key != group:
        known |= {f"{key}={name}": _by_name(group, name) for name in COMPONENTS[group].names()}
    found = []
    for name in map(str.strip, value.strip("[]").split(",")):
        if f"{key}={name}" in known:
            found.append(known[f"{key}={name}"])
            continue
        names = list(dict.fromkeys(label.partition("=")[2] for label in known))
        remedy = did_you_mean(name, names, f"{key}=")
        problems.append(
            Problem(f"{key}={name}: there is no such option", f"{remedy}there are: {', '.join(names)}")
        )
    return found


def _is_taken(key: str) -> bool:
    """Whether a component of the group has the argument; True for other keys."""
    group, _, rest = key.partition(".")
    if group not in COMPONENTS or not rest:
        return True
    registry, argument = COMPONENTS[group], rest.partition(".")[0]
    return any(argument in registry.signature(name).names for name in registry.names())
