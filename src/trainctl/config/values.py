"""A run's settings for people to look at: read fast, nothing imported, no signature looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from trainctl.config.explain import first_line
from trainctl.config.safety import refuse_calls
from trainctl.errors import ConfigError
from trainctl.paths import conf_directory
from trainctl.runs import directory as rundir

# OmegaConf's own way to read scalars (1e-3 is a number), on the parser in C: 0.4 ms a config instead of 5.
_Fast = type(
    "_Fast",
    (getattr(yaml, "CSafeLoader", yaml.SafeLoader),),
    {"yaml_implicit_resolvers": get_yaml_loader().yaml_implicit_resolvers},
)


def read_values(path: Path) -> dict[str, Any]:
    """The settings in the config file of a run, flat: ``{"optim.lr": 0.001, "seed": 1}``; a list is a value.

    A reference to another setting is followed. One to the environment stays as it is written: what it leads
    to now need not be what the run had, and may be a secret. So does one that leads nowhere.

    Raises ConfigError for what is no run's config, UnsafeInputError for ``_target_`` and its kin.
    """
    try:
        return parse_values(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "give the directory of a run") from error


def parse_values(content: bytes, where: str) -> dict[str, Any]:
    """The same for what stands in ``where``."""
    rundir.refuse_endless(content, where)
    try:
        values = yaml.load(content, _Fast)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {first_line(error)}", "give the directory of a run") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: not a run's config", "give the directory of a run")
    refuse_calls(values)
    return _flat(_followed(values) if b"${" in content else values)


@cache
def base_values() -> Mapping[str, Any]:
    """The values of trainctl's own base config, flat, components aside.

    They are what a run had that was made before a key was: what is new is off, or as it always was.
    """
    folder = conf_directory()
    values = read_values(folder / "config.yaml")
    for path in sorted(folder.glob("*/default.yaml")):
        values |= {f"{path.parent.name}.{key}": value for key, value in read_values(path).items()}
    return values


def _followed(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with references to other settings followed, all others as they are written."""
    try:
        tree = OmegaConf.create(_escaped(values))
    except OmegaConfBaseException:
        return values
    try:
        followed = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException:
        followed = _each(tree, values)
    assert isinstance(followed, dict)
    return {str(key): value for key, value in followed.items()}


def _each(tree: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The same one by one, so that one that leads nowhere does not keep the others from being followed."""
    followed: dict[str, Any] = {}
    for key, value in values.items():
        try:
            if isinstance(value, dict):
                followed[key] = _each(tree[key], value)
            else:
                node = tree[key]
                followed[key] = (
                    OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
                )
        except OmegaConfBaseException:
            followed[key] = value
    return followed


def _escaped(node: Any) -> Any:
    """``node`` with every text that a resolver would have to work out made plain text."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escaped(value) for value in node]
    calls = isinstance(node, str) and "${" in node and ":" in node
    return node.replace("${", "\\${") if calls else node


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
