"""The config files of a run: written when it starts, read back when it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainctl.config.composer import Composed, check_tree
from trainctl.config.config_diff import Change, find_changes
from trainctl.config.hydra_errors import explain_value
from trainctl.config.overrides import PATH_KEYS
from trainctl.config.safety import refuse_environment, refuse_unsafe
from trainctl.config.settings import Config
from trainctl.config.values import first_line
from trainctl.errors import ConfigError
from trainctl.registry import TRACKERS, plugins
from trainctl.runs.bucket import is_url
from trainctl.runs.record import refuse_nested_yaml

HISTORY = "config.history.yaml"


def stored_files(composed: Composed) -> dict[str, str]:
    """The config files that a run stores, by name.

    Interpolations are kept, so that an override on resume reaches everything that depends on it; paths
    become absolute, so that the run can be used from another folder. References to the environment stay
    references: a secret is not written down.
    """
    tree = composed.tree.copy()
    make_absolute(tree, composed.config.plugins)
    overrides = [each for each in composed.overrides if not each.lstrip("+~").startswith("hydra")]
    return {
        "config.yaml": OmegaConf.to_yaml(tree),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(overrides)),
    }


def read_config(path: Path, trusted: Callable[[list[str]], None]) -> Config:
    """The checked config that a run stored, without its trackers.

    ``trusted`` is called with the plugins before any is imported, and raises to refuse them.
    """
    return check_tree(read_tree(path, trusted, tracked=False))


def read_tree(
    path: Path, trusted: Callable[[list[str]], None], typed: Sequence[str] = (), *, tracked: bool = True
) -> DictConfig:
    """The config that a run stored, not resolved yet; otherwise as :func:`read_config`.

    Args:
        tracked: with its trackers, whose secrets nothing but training needs.
    """
    try:
        tree = _mapping(OmegaConf.load(path), str(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {first_line(error)}", "give a run directory") from error
    if not tracked:
        tree.pop(TRACKERS.group, None)
    refuse_environment(tree, path.parent, typed)
    return _checked(tree, str(path), trusted)


def parse_config(
    text: str, where: str, trusted: Callable[[list[str]], None], directory: Path | None = None
) -> Config:
    """The checked config in ``text``, which comes from ``where``, in the run or sweep ``directory`` if any;
    otherwise as :func:`read_config`."""
    tree = _parsed(text, where)
    if directory is not None:
        refuse_environment(tree, directory)
    return check_tree(_checked(tree, where, trusted))


def plugins_in(text: str, where: str, directory: Path) -> list[str]:
    """The plugins that the config in ``text`` names. Imports none. Otherwise as :func:`parse_config`."""
    tree = _parsed(text, where)
    refuse_environment(tree, directory)
    return _plugins(_checked(tree, where, lambda named: None))


def _parsed(text: str, where: str) -> DictConfig:
    refuse_nested_yaml(text.encode("utf-8", "replace"), where)
    try:
        return _mapping(OmegaConf.create(text), where)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}: {first_line(error)}") from error


def _mapping(tree: Any, where: str) -> DictConfig:
    """``tree``, before anything is looked for in it. Raises ConfigError for a list or a plain value."""
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{where}: not a run's config")
    return tree


def _checked(tree: DictConfig, where: str, trusted: Callable[[list[str]], None]) -> DictConfig:
    refuse_unsafe(tree)
    trusted(_plugins(tree, where))
    return tree


def _plugins(tree: DictConfig, where: str = "config.yaml") -> list[str]:
    values: Any = OmegaConf.to_container(tree, resolve=False)
    named = values.get("plugins")
    if named is not None and not (isinstance(named, list) and all(isinstance(each, str) for each in named)):
        raise ConfigError(f"{where}: plugins must be a list of texts")
    return named or []


@dataclass(frozen=True)
class ConfigVersion:
    """The settings of a run over a range of its steps.

    Attributes:
        until: the last step trained with them; None for the current version.
        threads: the number of threads then, where it is known.
        tree: the config, not resolved.
    """

    until: int | None
    threads: int | None
    tree: DictConfig

    @property
    def plugins(self) -> list[str]:
        """The plugins that the config names."""
        return _plugins(self.tree)

    @property
    def config(self) -> Config:
        """The checked settings. Imports the plugins that they name."""
        return check_tree(self.tree)

    @property
    def text(self) -> str:
        """The config as a run stores it."""
        return OmegaConf.to_yaml(self.tree)

    def changes(self, before: ConfigVersion) -> list[Change]:
        """How this version differs from ``before``."""
        return find_changes(resolved(before.tree), resolved(self.tree))

    def stored(self) -> dict[str, Any]:
        """The version as an entry of the history file."""
        config = OmegaConf.to_container(self.tree, resolve=False)
        return {"until": self.until, "threads": self.threads, "config": config}


def read_versions(
    directory: Path, trusted: Callable[[list[str]], None], typed: Sequence[str] = (), *, tracked: bool = True
) -> list[ConfigVersion]:
    """The settings of the run in ``directory``, oldest first: several where it was resumed with changes.

    ``trusted`` as in :func:`read_config`, for the newest; nothing of the others is imported; ``tracked`` as
    in :func:`read_tree`. Raises ConfigError for files that are not a run's, UnsafeInputError for ``_target_``
    and its kin.
    """
    versions, path = [], directory / HISTORY
    for entry in _entries(path) if path.is_file() else ():
        tree = OmegaConf.create(entry["config"])
        if not tracked:
            tree.pop(TRACKERS.group, None)
        refuse_unsafe(tree)
        refuse_environment(tree, directory, typed)
        versions.append(ConfigVersion(entry["until"], entry["threads"], tree))
    newest = read_tree(directory / "config.yaml", trusted, typed, tracked=tracked)
    return [*versions, ConfigVersion(None, None, newest)]


def version_at(versions: Sequence[ConfigVersion], step: int) -> ConfigVersion:
    """The settings with which ``step`` was trained."""
    return next(version for version in versions if version.until is None or version.until >= step)


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {first_line(error)}") from error
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict)
        and type(entry.get("until")) is int
        and type(entry.get("threads")) in (int, type(None))
        and isinstance(entry.get("config"), dict)
        for entry in entries
    ):
        raise ConfigError(f"{path}: not a valid history of a run's config")
    return entries


def resolved(tree: DictConfig) -> dict[str, Any]:
    """The plain values of a config. Raises ConfigError for one that cannot be resolved."""
    try:
        values = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_value(error, tree)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def make_absolute(tree: DictConfig, named: Sequence[str]) -> None:
    """Make the paths, and the ``named`` plugins, absolute, so that the config works from every folder."""
    written = OmegaConf.to_container(tree, resolve=False)
    for key in PATH_KEYS:
        value: Any = written
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if key.startswith("hydra.") or not isinstance(value, str) or "${" in value or is_url(value):
            continue
        # init_from may be a run's name, or last, instead of a directory.
        if key != "init_from" or _is_folder(value):
            OmegaConf.update(tree, key, str(Path(value).expanduser().absolute()))
    OmegaConf.update(tree, "plugins", [plugins.absolute(name) for name in named])


def _is_folder(value: str) -> bool:
    """False also for text that cannot be a folder's name."""
    try:
        return Path(value).expanduser().is_dir()
    except (OSError, RuntimeError):
        return False
