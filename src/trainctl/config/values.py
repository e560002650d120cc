"""A run's settings for display and comparison: read fast, without imports and without checks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.basecontainer import get_yaml_loader  # type: ignore[attr-defined] # its home moves in 2.4
from omegaconf.errors import OmegaConfBaseException

from trainctl.config.safety import refuse_unsafe
from trainctl.errors import ConfigError
from trainctl.runs.record import refuse_nested_yaml

# OmegaConf's own way to read scalars (1e-3 is a number), on the parser in C: 0.4 ms a config instead of 5.
_Fast = type(
    "_Fast",
    (getattr(yaml, "CSafeLoader", yaml.SafeLoader),),
    {"yaml_implicit_resolvers": get_yaml_loader().yaml_implicit_resolvers},
)


def read_values(path: Path) -> dict[str, Any]:
    """The settings in the config file of a run, flat: ``{"optim.lr": 0.001, "seed": 1}``; a list is a value.

    References to other settings are resolved. References to the environment stay as written: the value may
    have changed since the run, and may be a secret. So do references that cannot be resolved.

    Raises ConfigError for a file that is not a run's config, UnsafeInputError for ``_target_`` and its kin.
    """
    try:
        return parse_values(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}", "give a run directory") from error


def parse_values(content: bytes, where: str) -> dict[str, Any]:
    """The same for the file's content; ``where`` names it in messages."""
    refuse_nested_yaml(content, where)
    try:
        values = yaml.load(content, _Fast)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {first_line(error)}", "give a run directory") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: not a run's config", "give a run directory")
    refuse_unsafe(values)
    return _resolved(values) if b"${" in content else flatten(values)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the second where the first ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` flat, with references to other settings resolved, all others as written."""
    flat = flatten(values)
    try:
        tree = OmegaConf.create(_escaped(values))
    except OmegaConfBaseException:
        return flat
    for key, value in flat.items():
        # One at a time: one that fails must not keep the others from being resolved.
        try:
            node = OmegaConf.select(tree, key, default=value) if "${" in str(value) else value
            flat[key] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        except OmegaConfBaseException:
            continue
    return flatten(flat)


def _escaped(node: Any) -> Any:
    """``node`` with every call of a resolver escaped, so that it stays text."""
    if isinstance(node, dict):
        return {key: _escaped(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_escaped(value) for value in node]
    calls = isinstance(node, str) and "${" in node and ":" in node
    return node.replace("${", "\\${") if calls else node


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key: ``{"optim": {"lr": 1}}`` is ``{"optim.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
