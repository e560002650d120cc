"""Values of the base config, composed by hand, and what is wrong with changed ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from trainctl.config.validation import check
from trainctl.errors import ConfigError, Problem
from trainctl.paths import conf_directory

BASE = yaml.safe_load((conf_directory() / "config.yaml").read_text())
GROUPS: dict[str, str] = {
    group: name
    for entry in BASE.pop("defaults")
    if isinstance(entry, dict)
    for group, name in entry.items()
    if name is not None and group != "hydra" and (conf_directory() / group).is_dir()
}


def option(group: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((conf_directory() / group / f"{name}.yaml").read_text())
    return content


def base() -> dict[str, Any]:
    """The values of the base config, composed by hand."""
    return {**copy.deepcopy(BASE), **{group: option(group, name) for group, name in GROUPS.items()}}


def changed(key: str, value: Any) -> dict[str, Any]:
    values = base()
    *path, leaf = key.split(".")
    node = values
    for part in path:
        node = node[part]
    node[leaf] = value
    return values


def problems_of(values: dict[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        check(values)
    assert caught.value.exit_code == 2
    return caught.value.problems
