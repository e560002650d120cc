"""Choosing another component drops the arguments that were meant for the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from trainctl.config import overrides as word_rules
from trainctl.config.settings import show
from trainctl.config.sources import BLANK
from trainctl.registry import COMPONENTS


@dataclass(frozen=True)
class _Word:
    key: str
    text: str

    @property
    def group(self) -> str:
        return self.key.partition(".")[0]

    @property
    def chooses(self) -> bool:
        """``optim=adam`` and ``model.name=my_net`` choose a component."""
        return self.key in COMPONENTS or (self.group in COMPONENTS and self.key == f"{self.group}.name")


def settle(
    full: DictConfig,
    words: Sequence[str],
    compose: Callable[[list[str]], DictConfig],
    load_option: Callable[[str, str], DictConfig | None],
) -> list[str]:
    """Settle every component's node of ``full``, in place; returns a line for each drop.

    An experiment's arguments belong to the component that the files choose, an option file's to the
    component it names; the words of the command line always count.

    Args:
        full: the composed config with Hydra's node.
        words: the words it was composed from.
        compose: composes a list of words.
        load_option: gives what an option's own file says, by group and option.
    """
    parsed = [_Word(word_rules.split(word)[1], word) for word in words]
    groups = {word.group for word in parsed if word.chooses}
    # By convention an option is called like its component; where not, its file tells whom it was meant for.
    groups |= {group for group in COMPONENTS if _choice(full, group) != component_name(full, group)}
    if not groups:
        return []
    rest = [word.text for word in parsed if word.group not in COMPONENTS]
    from_files = compose([*rest, *(f"{group}={BLANK}" for group in COMPONENTS)])
    before = compose(rest)
    notices: list[str] = []
    for group in sorted(groups):
        choice = _choice(full, group)
        option = load_option(group, choice) if choice is not None else None
        typed = [word.key for word in parsed if word.group == group and "." in word.key]
        option_name = option.get("name") if option is not None else None
        name = component_name(full, group)
        if option_name is not None and choice != _choice(before, group) and f"{group}.name" not in typed:
            # A word chose another option: its own name counts, not one an experiment set for the old one.
            name = str(option_name)
        if name is None:
            continue
        sources = [(option, option_name), (from_files.get(group), component_name(before, group))]
        node, dropped = _merge(sources, name, {key.split(".")[1] for key in typed})
        _apply(full, typed, node)
        node["name"] = name
        OmegaConf.set_struct(full, False)
        full[group] = node
        for owner, arguments in dropped.items():
            listed = ", ".join(f"{key}={value}" for key, value in arguments.items())
            notices.append(f"{group}={name}: dropped {listed} (meant for {owner})")
    return notices


def _merge(
    sources: Sequence[tuple[DictConfig | None, str | None]], name: str, typed: set[str]
) -> tuple[DictConfig, dict[str, dict[str, str]]]:
    """Merge the sources meant for ``name``; say what the others would have set and nobody typed."""
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
    """Put the arguments that words set into ``node``, whole; one that a word deleted stays away."""
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
