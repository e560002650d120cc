"""What a run stores of its config, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainctl import words as word_rules
from trainctl.compose._composer import Composed, check_tree
from trainctl.compose._explain import first_line
from trainctl.compose._safety import refuse_unsafe
from trainctl.config import Config
from trainctl.errors import ConfigError


def stored_files(composed: Composed) -> dict[str, str]:
    """What a run stores of its config, by file name.

    Interpolations are kept, so that an override on resume reaches everything that depends on it; paths
    become absolute, so that the run can be used from another folder. References to the environment stay
    references: a secret is not written down.
    """
    tree = composed.tree.copy()
    written = OmegaConf.to_container(tree, resolve=False)
    for key in word_rules.PATH_KEYS:
        value = _at(written, key)
        if key.startswith("hydra.") or not isinstance(value, str) or "${" in value:
            continue
        # init_from may be a run's name, or last, instead of a directory.
        if key != "init_from" or Path(value).expanduser().is_dir():
            OmegaConf.update(tree, key, _absolute(value))
    named = [_absolute(name) if name.endswith(".py") else name for name in composed.config.plugins]
    OmegaConf.update(tree, "plugins", named)
    overrides = OmegaConf.create(
        [word for word in composed.overrides if not word.lstrip("+~").startswith("hydra")]
    )
    return {"config.yaml": OmegaConf.to_yaml(tree), "overrides.yaml": OmegaConf.to_yaml(overrides)}


def read_config(path: Path, trusted: Callable[[list[str]], None]) -> Config:
    """The checked config that a run stored.

    ``trusted`` is called with the plugins before any is imported, and raises to refuse them.
    """
    try:
        tree = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {first_line(error)}", "give the directory of a run") from error
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{path}: not a run's config")
    refuse_unsafe(tree)
    trusted([str(name) for name in tree.get("plugins") or []])
    return check_tree(tree)


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
