"""List what can be selected: ls, ls GROUP, or ls GROUP=OPTION for its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from trainctl.config import describe, show
from trainctl.errors import ConfigError, nearest
from trainctl.locations import conf_directory, user_conf
from trainctl.registry import COMPONENTS
from trainctl.ui.listing import Listing


def run(arguments: Sequence[str]) -> int:
    """``trainctl ls [GROUP|GROUP=OPTION] …``."""
    options = find_options()
    listing = Listing()
    if not arguments:
        for group, members in options.items():
            listing.group(group, {name: _summary(group, name, path) for name, path in members.items()})
        return 0
    for argument in arguments:
        group, equals, option = argument.partition("=")
        if group not in options:
            close = nearest(group, options)
            remedy = f"did you mean {close}? " if close else ""
            raise ConfigError(
                f"ls {argument}: there is no such group", f"{remedy}there are: {', '.join(options)}"
            )
        members = options[group]
        if not equals:
            listing.group(group, {name: _summary(group, name, path) for name, path in members.items()})
        elif option in members:
            _show_option(listing, group, option, members[option])
        else:
            close = nearest(option, members)
            remedy = f"did you mean {group}={close}? " if close else ""
            raise ConfigError(
                f"ls {argument}: there is no such option", f"{remedy}there are: {', '.join(members)}"
            )
    return 0


def find_options() -> dict[str, dict[str, Path]]:
    """The options of every group with their files; a user's ``./conf`` comes before trainctl's own."""
    found: dict[str, dict[str, Path]] = {}
    for folder in (conf_directory(), user_conf()):
        if folder is None:
            continue
        for path in sorted(folder.glob("*/*.yaml")):
            if path.parent.name != "hydra":
                found.setdefault(path.parent.name, {})[path.stem] = path
    order = [*COMPONENTS, *sorted(set(found) - set(COMPONENTS))]
    return {group: dict(sorted(found[group].items())) for group in order if group in found}


def _summary(group: str, name: str, path: Path) -> str:
    """The first comment line of the option's file, else the first line of its component's docstring."""
    first = path.read_text(encoding="utf-8").lstrip().partition("\n")[0]
    if first.startswith("#") and not first.startswith("# @package"):
        return first.lstrip("# ").strip()
    comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    if len(comments) > 1:
        return comments[1].lstrip("# ").strip()
    known = group in COMPONENTS and name in COMPONENTS[group].names()
    return COMPONENTS[group].signature(name).summary if known else ""


def _show_option(listing: Listing, group: str, option: str, path: Path) -> None:
    values = _read(path)
    registry = COMPONENTS.get(group)
    name = str(values.get("name", option))
    if registry is None or name not in registry.names():
        listing.text(f"{group}={option}", path.read_text(encoding="utf-8").rstrip())
        return
    signature = registry.signature(name)
    rows = []
    for parameter in signature.parameters:
        value = values.get(parameter.name, parameter.default)
        default = "required" if value is parameter.default and parameter.required else show(value)
        rows.append((f"{group}.{parameter.name}", default, describe(parameter.annotation)))
    listing.component(f"{group}={option}", signature.doc, rows)


def _read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
