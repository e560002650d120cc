"""Choosing another component drops the arguments that were meant for the previous one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from trainctl.config.overrides import split_override
from trainctl.config.sources import BLANK
from trainctl.registry import COMPONENTS
from trainctl.registry.constraints import show

_Source = tuple[DictConfig | None, str | None]
"""Arguments, and the component that they are meant for."""


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
    keys = [split_override(override)[1] for override in overrides]
    groups = {group for group in COMPONENTS if group in keys or f"{group}.name" in keys}
    # By convention an option has its component's name; where not, the file says which component it is for.
    groups |= {group for group in COMPONENTS if _choice(full, group) != _name(full.get(group))}
    if not groups:
        return []
    rest = [override for override, key in zip(overrides, keys, strict=True) if _group(key) not in COMPONENTS]
    from_files = compose([*rest, *(f"{group}={BLANK}" for group in COMPONENTS)])
    before = compose(rest)
    notices: list[str] = []
    for group in sorted(groups):
        typed = [key for key in keys if key.startswith(f"{group}.")]
        choice = _choice(full, group)
        option = load_option(group, choice) if choice is not None else None
        name, option_name = _name(full.get(group)), _name(option)
        if option_name and choice != _choice(before, group) and f"{group}.name" not in typed:
            # Another option was typed: its own name counts, not one an experiment set for the previous one.
            name = option_name
        if name is not None:
            files = (from_files.get(group), _name(before.get(group)))
            notices += _keep_own_arguments(full, group, name, typed, (option, option_name), files)
    return notices


def _keep_own_arguments(
    full: DictConfig,
    group: str,
    name: str,
    typed: Sequence[str],
    option: _Source,
    files: _Source,
) -> list[str]:
    """Make a component's node of the sources meant for ``name`` and of the ``typed`` keys.

    Returns a line for what somebody wrote into a file, such as an experiment, and was dropped; nobody asked
    for the defaults of an ``option``.
    """
    node, notices = OmegaConf.create(), []
    arguments = {key.split(".")[1] for key in typed}
    for source, meant_for in (option, files):
        if source and meant_for in (None, name):
            node = cast(DictConfig, OmegaConf.merge(node, source))
        elif source and source is files[0]:
            dropped = [
                f"{key!s}={show(_plain(source[key]))}" for key in source if key not in ("name", *arguments)
            ]
            if dropped:
                notices.append(f"{group}={name}: dropped {', '.join(dropped)} (meant for {meant_for})")
    OmegaConf.set_struct(node, False)
    for argument in arguments:
        if argument in full[group]:
            OmegaConf.update(node, argument, full[group]._get_node(argument), merge=False)
        else:  # deleted with ~
            node.pop(argument, None)
    node["name"] = name
    OmegaConf.set_struct(full, False)
    full[group] = node
    return notices


def _group(key: str) -> str:
    return key.partition(".")[0]


def _name(node: Any) -> str | None:
    """The name in a component's node."""
    name = node.get("name") if isinstance(node, DictConfig) else None
    return str(name) if name is not None else None


def _choice(full: DictConfig, group: str) -> str | None:
    choice = full.hydra.runtime.choices.get(group)
    return str(choice) if choice is not None else None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
