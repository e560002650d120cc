"""The options of every group: the YAML files of trainctl's own conf and of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainctl.paths import conf_directory, user_conf
from trainctl.registry import COMPONENTS, METRICS


def find_members() -> dict[str, dict[str, Path | None]]:
    """Every name that can be selected, by group. Metrics have no files: ``train.metrics`` names them."""
    found: dict[str, dict[str, Path | None]] = {group: {**paths} for group, paths in find_options().items()}
    found[METRICS.group] = dict.fromkeys(METRICS.names())
    return {group: found[group] for group in (*COMPONENTS, METRICS.group, *found) if group in found}


def find_options() -> dict[str, dict[str, Path]]:
    """The file of every option, by group and name; a user's ``./conf`` wins over trainctl's own."""
    found: dict[str, dict[str, Path]] = {}
    for folder in (conf_directory(), user_conf()):
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
