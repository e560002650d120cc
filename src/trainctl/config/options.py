"""The options of every group: the YAML files of trainctl's own conf and of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from trainctl.paths import conf_directory, user_conf
from trainctl.registry import COMPONENTS, METRICS, TRACKERS
from trainctl.registry.signature import Signature


def find_members(*more: Path) -> dict[str, dict[str, Path | None]]:
    """Every name that can be selected, by group. Metrics have no files: ``train.metrics`` names them."""
    found: dict[str, dict[str, Path | None]] = {
        group: {**paths} for group, paths in find_options(*more).items()
    }
    found[METRICS.group] = dict.fromkeys(METRICS.names())
    return {group: found[group] for group in (*COMPONENTS, METRICS.group, *found) if group in found}


def find_options(*more: Path) -> dict[str, dict[str, Path]]:
    """The file of every option, by group and name; ``./conf`` wins over trainctl's, ``more`` over both."""
    found: dict[str, dict[str, Path]] = {}
    for folder in (conf_directory(), user_conf(), *more):
        for group, name, path in options_in(folder) if folder is not None else ():
            found.setdefault(group, {})[name] = path
    order = [*COMPONENTS, *sorted(set(found) - set(COMPONENTS))]
    return {group: dict(sorted(found[group].items())) for group in order if group in found}


def options_in(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield the group, name and file of every option below ``folder``, except Hydra's own groups.

    ``experiment/vision/a.yaml`` is the option ``vision/a`` of ``experiment``. Hidden folders hold editors'
    backup copies and are skipped.
    """
    for place in sorted(folder.iterdir()):
        if place.name == "hydra" or not place.is_dir():
            continue
        for path in sorted(place.rglob("*.yaml")):
            parts = path.relative_to(place).with_suffix("").parts
            if not any(part.startswith(".") for part in (place.name, *parts)):
                yield place.name, "/".join(parts), path


def component_of(group: str, option: str, path: Path) -> tuple[str, Signature, dict[str, Any]] | None:
    """The key of the component that an option chooses, its signature and values; None for other options."""
    values = read_option(path)
    registry, prefix = COMPONENTS.get(group), group
    if group == TRACKERS.group and isinstance(values.get(option), dict):
        # Several can be chosen: each has its settings under its own name.
        registry, prefix, values = TRACKERS, f"{group}.{option}", values[option]
    name = str(values.get("name", option))
    if registry is None or name not in registry.names():
        return None
    return prefix, registry.signature(name), values


def read_option(path: Path) -> dict[str, Any]:
    """The values of an option's file; none where it cannot be read."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
