"""List what can be chosen, and the arguments of a component."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trainctl.cli.options import Argument, Command, available
from trainctl.config.options import component_of, find_members, read_option
from trainctl.config.overrides import ALIASES, to_hydra
from trainctl.errors import ConfigError, did_you_mean
from trainctl.paths import user_conf
from trainctl.registry import COMPONENTS, METRICS, REQUIRED, TASKS, Parameter, plugins
from trainctl.registry.constraints import describe, show
from trainctl.registry.signature import Signature
from trainctl.ui.listing import Listing

COMMAND = Command(
    __name__,
    __doc__,
    (
        Argument(
            "GROUP[=OPTION]",
            "a group, or one of its options (default: all groups); plugins=FILE adds those of a plugin",
            least=0,
            most=None,
        ),
    ),
    examples=(
        ("The optimizers.", "trainctl ls optim"),
        ("What a model takes, with defaults.", "trainctl ls model=mlp"),
    ),
)

_REGISTRIES = {**COMPONENTS, METRICS.group: METRICS, TASKS.group: TASKS}


def run(words: Sequence[str]) -> int:
    """``trainctl ls [GROUP|GROUP=OPTION] …``."""
    arguments = COMMAND.parse(words).words
    words = [word for word in arguments if word.startswith("plugins=")]
    arguments = tuple(word for word in arguments if word not in words)
    groups = _all_members()
    if words or any(_is_unknown(groups, argument) for argument in arguments):
        plugins.load(_named_plugins(words))
        groups = _all_members()
    listing = Listing()
    if not arguments:
        for group, members in groups.items():
            listing.group(group, {name: summary(group, name, path) for name, path in members.items()})
        return 0
    for argument in arguments:
        group, equals, option = argument.partition("=")
        if group in ALIASES:
            listing.text(group, _alias(group))
            continue
        if group not in groups:
            raise ConfigError(f"ls {argument}: there is no such group", available(group, list(groups)))
        members = groups[group]
        if not equals:
            listing.group(group, {name: summary(group, name, path) for name, path in members.items()})
        elif option in members:
            _show_option(listing, group, option, members[option])
        else:
            remedy = did_you_mean(option, members, f"{group}=")
            raise ConfigError(
                f"ls {argument}: there is no such option", f"{remedy}choose one of: {', '.join(members)}"
            )
    return 0


def _alias(name: str) -> str:
    """What a short key stands for, and its value where nothing else is typed."""
    from trainctl.config.composer import Composer

    full, _, _ = Composer().compose_tree([])
    group, _, key = ALIASES[name].partition(".")
    return f"short for {ALIASES[name]}, which is {show(full[group][key])} by default"


def _all_members() -> dict[str, dict[str, Path | None]]:
    """What can be selected; plugins' components without an option file, and tasks, which have none, too."""
    groups = {**find_members(), TASKS.group: dict.fromkeys(TASKS.names())}
    for group, registry in COMPONENTS.items():
        groups[group] = {**dict.fromkeys(registry.foreign()), **groups[group]}
    return groups


def _is_unknown(groups: Mapping[str, Mapping[str, Path | None]], argument: str) -> bool:
    """Whether only a plugin can say what GROUP=OPTION takes."""
    group, equals, option = argument.partition("=")
    path = groups.get(group, {}).get(option)
    if path is None or group not in COMPONENTS:
        return bool(equals) and option not in groups.get(group, {})
    return component_of(group, option, path) is None


def _named_plugins(words: Sequence[str]) -> list[str]:
    """The plugins of ``conf/local.yaml``, and those that the ``words`` name."""
    local = read_option(folder / "local.yaml") if (folder := user_conf()) else {}
    sources = [local, *(yaml.safe_load(to_hydra(word).replace("=", ": ", 1)) for word in words)]
    listed = [source.get("plugins") for source in sources]
    return [str(name) for names in listed if isinstance(names, list) for name in names]


def summary(group: str, name: str, path: Path | None) -> str:
    """The first comment line of the option's file, else the first line of its component's docstring."""
    if path is None:
        return _described(group, name).summary
    first = _text(path).lstrip().partition("\n")[0]
    if first.startswith("#") and not first.startswith("# @package"):
        return first.lstrip("# ").strip()
    comments = [line for line in _text(path).splitlines() if line.startswith("# ")]
    if len(comments) > 1:
        return comments[1].lstrip("# ").strip()
    known = group in COMPONENTS and name in COMPONENTS[group].names()
    return COMPONENTS[group].signature(name).summary if known else ""


def _show_option(listing: Listing, group: str, option: str, path: Path | None) -> None:
    if path is None:
        _show_member(listing, group, option)
        return
    if (found := component_of(group, option, path)) is None:
        listing.text(f"{group}={option}", _text(path).rstrip())
        return
    prefix, signature, values = found
    rows = [
        row(f"{prefix}.{parameter.name}", parameter, values.get(parameter.name, parameter.default))
        for parameter in signature.parameters
    ]
    listing.component(f"{group}={option}", signature.doc, rows)


def _described(group: str, name: str) -> Signature:
    """Of a task what its file says: no config sets an argument of one."""
    if group == TASKS.group and (path := TASKS.file(name)) is not None:
        return Signature((), ast.get_docstring(ast.parse(_text(path))) or "")
    return _REGISTRIES[group].signature(name)


def _show_member(listing: Listing, group: str, name: str) -> None:
    """A member that has no option file, under the words that choose it."""
    signature = _described(group, name)
    prefix = f"{group}." if group in COMPONENTS else ""
    rows = [row(f"{prefix}{each.name}", each, each.default) for each in signature.parameters]
    if group != METRICS.group:
        chosen = f"dataset.as_task={name}" if group == TASKS.group else f"{group}.name={name}"
        listing.component(chosen, signature.doc, rows)
        return
    arguments = ", ".join(f"{key}: {'…' if default == 'required' else default}" for key, default, _ in rows)
    entry = f"{{{name}: {{{arguments}}}}}" if arguments else name
    listing.component(f"train.metrics=[{entry}]", signature.doc, rows)


def row(key: str, parameter: Parameter, value: Any) -> tuple[str, str, str]:
    """An argument's key, default value and type."""
    return key, "required" if value is REQUIRED else show(value), describe(parameter.annotation)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
