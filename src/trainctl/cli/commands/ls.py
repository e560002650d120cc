"""List what can be chosen, and the arguments of a component."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainctl.cli.options import Argument, Command, available
from trainctl.config.options import component_of, find_members
from trainctl.errors import ConfigError, did_you_mean
from trainctl.registry import COMPONENTS, METRICS, REQUIRED, Parameter
from trainctl.registry.constraints import describe, show
from trainctl.ui.listing import Listing

COMMAND = Command(
    __name__,
    __doc__,
    (Argument("GROUP[=OPTION]", "a group, or one of its options (default: all groups)", least=0, most=None),),
    examples=(
        ("The optimizers.", "trainctl ls optim"),
        ("What a model takes, with defaults.", "trainctl ls model=mlp"),
    ),
)


def run(words: Sequence[str]) -> int:
    """``trainctl ls [GROUP|GROUP=OPTION] …``."""
    arguments = COMMAND.parse(words).words
    groups = find_members()
    listing = Listing()
    if not arguments:
        for group, members in groups.items():
            listing.group(group, {name: summary(group, name, path) for name, path in members.items()})
        return 0
    for argument in arguments:
        group, equals, option = argument.partition("=")
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


def summary(group: str, name: str, path: Path | None) -> str:
    """The first comment line of the option's file, else the first line of its component's docstring."""
    if path is None:
        return METRICS.signature(name).summary
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
        _show_metric(listing, option)
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


def _show_metric(listing: Listing, name: str) -> None:
    signature = METRICS.signature(name)
    rows = [row(parameter.name, parameter, parameter.default) for parameter in signature.parameters]
    arguments = ", ".join(f"{key}: {'…' if default == 'required' else default}" for key, default, _ in rows)
    entry = f"{{{name}: {{{arguments}}}}}" if arguments else name
    listing.component(f"train.metrics=[{entry}]", signature.doc, rows)


def row(key: str, parameter: Parameter, value: Any) -> tuple[str, str, str]:
    """An argument's key, default value and type."""
    return key, "required" if value is REQUIRED else show(value), describe(parameter.annotation)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
