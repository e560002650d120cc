"""Choosing another component drops the arguments that were meant for the previous one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from trainctl.config.overrides import split_override
from trainctl.config.sources import BLANK
from trainctl.registry import COMPONENTS
from trainctl.registry.constraints import show


def drop_unused_arguments(
    full: DictConfig,
    overrides: Sequence[str],
    compose: Callable[[list[str]], DictConfig],
    load_option: Callable[[str, str], DictConfig | None],
) -> list[str]:
    """Keep in every component's node of ``full`` the arguments meant for it; returns a line for each drop.

    An experiment's arguments belong to the component that the files choose, an option file's to the
    component it names; what is typed always counts.

    Args:
        full: the composed config with Hydra's node, changed in place.
        overrides: the overrides it was composed from.
        compose: composes a list of overrides.
        load_option: the content of an option's own file, by group and option.
    """
    keys = {override: split_override(override)[1] for override in overrides}
    groups = {key.partition(".")[0] for key in keys.values() if _chooses_component(key)}
    # By convention an option has its component's name; where not, the file says which component it is for.
    groups |= {group for group in COMPONENTS if _choice(full, group) != component_name(full, group)}
    if not groups:
        return []
    rest = [override for override, key in keys.items() if key.partition(".")[0] not in COMPONENTS]
    from_files = compose([*rest, *(f"{group}={BLANK}" for group in COMPONENTS)])
    before = compose(rest)
    notices: list[str] = []
    for group in sorted(groups):
        typed = [key for key in keys.values() if key.startswith(f"{group}.")]
        notices += _keep_own_arguments(full, group, typed, from_files, before, load_option)
    return notices


def _chooses_component(key: str) -> bool:
    """True for ``optim`` and ``model.name``, as in ``optim=adam`` and ``model.name=my_net``."""
    return key.removesuffix(".name") in COMPONENTS


def _keep_own_arguments(
    full: DictConfig,
    group: str,
    typed: Sequence[str],
    from_files: DictConfig,
    before: DictConfig,
    load_option: Callable[[str, str], DictConfig | None],
) -> list[str]:
    """Replace one component's node; ``typed`` are the keys of its arguments among the overrides."""
    choice = _choice(full, group)
    option = load_option(group, choice) if choice is not None else None
    option_name = option.get("name") if option is not None else None
    name = component_name(full, group)
    if option_name is not None and choice != _choice(before, group) and f"{group}.name" not in typed:
        # Another option was typed: its own name counts, not one an experiment set for the previous option.
        name = str(option_name)
    if name is None:
        return []
    sources = [(option, option_name), (from_files.get(group), component_name(before, group))]
    node, dropped = _merge(sources, name, {key.split(".")[1] for key in typed})
    _apply(full, typed, node)
    node["name"] = name
    OmegaConf.set_struct(full, False)
    full[group] = node
    return [
        f"{group}={name}: dropped {', '.join(f'{key}={value}' for key, value in arguments.items())} "
        f"(meant for {owner})"
        for owner, arguments in dropped.items()
    ]


def _merge(
    sources: Sequence[tuple[DictConfig | None, str | None]], name: str, typed: set[str]
) -> tuple[DictConfig, dict[str, dict[str, str]]]:
    """Merge the sources meant for ``name``; and the arguments of the others that were not typed."""
    node = OmegaConf.create()
    dropped: dict[str, dict[str, str]] = {}
    for source, meant_for in sources:
        if not source:
            continue
        if meant_for is None or meant_for == name:
            node = cast(DictConfig, OmegaConf.merge(node, source))
            continue
        keys = [str(key) for key in source if key not in ("name", *typed)]
        if keys:
            dropped.setdefault(meant_for, {}).update({key: show(_plain(source[key])) for key in keys})
    OmegaConf.set_struct(node, False)
    return node, dropped


def _apply(full: DictConfig, typed: Sequence[str], node: DictConfig) -> None:
    """Copy the arguments that were typed into ``node``; one that was deleted stays deleted."""
    for key in typed:
        group, argument = key.split(".")[:2]
        if argument in full[group]:
            OmegaConf.update(node, argument, full[group]._get_node(argument), merge=False)
        elif argument in node:
            del node[argument]


def component_name(full: DictConfig, group: str) -> str | None:
    """The name in a component's node."""
    node = full.get(group)
    name = node.get("name") if isinstance(node, DictConfig) else None
    return str(name) if name is not None else None


def _choice(full: DictConfig, group: str) -> str | None:
    choice = full.hydra.runtime.choices.get(group)
    return str(choice) if choice is not None else None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
