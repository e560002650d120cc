"""What a run stores of its config, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainctl.config import overrides as word_rules
from trainctl.config.composer import Composed, check_tree
from trainctl.config.config_diff import Change, find_changes
from trainctl.config.explain import explain_value, first_line
from trainctl.config.safety import refuse_unsafe
from trainctl.config.settings import Config
from trainctl.errors import ConfigError, Problem
from trainctl.paths import conf_directory
from trainctl.registry import COMPONENTS, TRACKERS, plugins
from trainctl.runs import directory as rundir

_HISTORY = "config.history.yaml"


def stored_files(composed: Composed) -> dict[str, str]:
    """What a run stores of its config, by file name.

    Interpolations are kept, so that an override on resume reaches everything that depends on it; paths
    become absolute, so that the run can be used from another folder. References to the environment stay
    references: a secret is not written down.
    """
    tree = composed.tree.copy()
    _make_absolute(tree, composed.config.plugins)
    overrides = OmegaConf.create(
        [word for word in composed.overrides if not word.lstrip("+~").startswith("hydra")]
    )
    return {"config.yaml": OmegaConf.to_yaml(tree), "overrides.yaml": OmegaConf.to_yaml(overrides)}


def read_config(path: Path, trusted: Callable[[list[str]], None]) -> Config:
    """The checked config that a run stored.

    ``trusted`` is called with the plugins before any is imported, and raises to refuse them.
    """
    return check_tree(read_tree(path, trusted))


def read_tree(path: Path, trusted: Callable[[list[str]], None]) -> DictConfig:
    """The config that a run stored, not resolved yet; otherwise as :func:`read_config`."""
    try:
        tree = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {first_line(error)}", "give the directory of a run") from error
    return _checked(tree, str(path), trusted)


def parse_config(text: str, where: str, trusted: Callable[[list[str]], None]) -> Config:
    """The checked config in ``text``, which ``where`` has of a run; otherwise as :func:`read_config`."""
    rundir.refuse_endless(text.encode(), where)
    try:
        tree = OmegaConf.create(text)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}: {first_line(error)}") from error
    return check_tree(_checked(tree, where, trusted))


def _checked(tree: Any, where: str, trusted: Callable[[list[str]], None]) -> DictConfig:
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{where}: not a run's config")
    refuse_unsafe(tree)
    trusted(_plugins(tree))
    return tree


def _plugins(tree: DictConfig) -> list[str]:
    return [str(name) for name in tree.get("plugins") or []]


@dataclass(frozen=True)
class Era:
    """Settings that a run was trained with for a while.

    Attributes:
        until: the last step of theirs; None for those that hold now.
        threads: the number of threads then, where it is known.
        tree: the config, not resolved.
    """

    until: int | None
    threads: int | None
    tree: DictConfig

    @property
    def plugins(self) -> list[str]:
        """What they import."""
        return _plugins(self.tree)

    @property
    def config(self) -> Config:
        """The checked settings. Imports the plugins that they name."""
        return check_tree(self.tree)

    def changes(self, before: Era) -> list[Change]:
        """What differs from ``before``."""
        return find_changes(_resolved(before.tree), _resolved(self.tree))

    def stored(self) -> dict[str, Any]:
        config = OmegaConf.to_container(self.tree, resolve=False)
        return {"until": self.until, "threads": self.threads, "config": config}


def read_eras(directory: Path, trusted: Callable[[list[str]], None]) -> list[Era]:
    """The settings that the run in ``directory`` has had, oldest first: more than one where it was resumed
    with others.

    ``trusted`` as in :func:`read_config`, for the newest; nothing of the others is imported. Raises
    ConfigError for files that are not a run's, UnsafeInputError for ``_target_`` and its kin.
    """
    eras, path = [], directory / _HISTORY
    for entry in _entries(path) if path.is_file() else ():
        tree = OmegaConf.create(entry["config"])
        refuse_unsafe(tree)
        eras.append(Era(entry["until"], entry["threads"], tree))
    return [*eras, Era(None, None, read_tree(directory / "config.yaml", trusted))]


def era_of(eras: Sequence[Era], step: int) -> Era:
    """The settings with which ``step`` was taken."""
    return next(era for era in eras if era.until is None or era.until >= step)


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
        raise ConfigError(f"{path}: not the settings that a run had before")
    return entries


@dataclass(frozen=True)
class Stored:
    """A run's config with changes made to it.

    Attributes:
        config: the checked settings, changes included.
        changes: what differs from before.
        files: what to store of it, by file name.
        eras: the settings before.
        tree: the config, changes included, not resolved.
    """

    config: Config
    changes: list[Change]
    files: dict[str, str]
    eras: list[Era]
    tree: DictConfig

    def going_on_from(self, step: int, threads: int | None) -> Stored:
        """The same for a run that goes on from the checkpoint at ``step``.

        What that was taken with may be older than the newest settings: a run that is resumed with others and
        killed before its next checkpoint has stored them, and nothing trained with them. ``threads`` is the
        number of threads so far.
        """
        then, now = era_of(self.eras, step), Era(None, None, self.tree)
        changes = now.changes(then)
        kept = [era for era in self.eras if era.until is not None and era.until < step]
        if changes:
            kept.append(Era(step, then.threads or threads, then.tree))
        if not kept and len(self.eras) == 1:
            return replace(self, changes=changes)
        history = OmegaConf.to_yaml(OmegaConf.create([era.stored() for era in kept]))
        # First: settings that are replaced without it could not be told from those of the checkpoint.
        return replace(self, changes=changes, files={_HISTORY: history, **self.files})


def change_config(directory: Path, words: Sequence[str], trusted: Callable[[list[str]], None]) -> Stored:
    """The config of the run in ``directory`` with the overrides ``words`` (KEY=VALUE).

    Values reach everything that refers to them; ``guard=full`` and the like set all of the group's values.
    Raises ConfigError for words that do not fit and for another component, UnsafeInputError for ``_target_``.
    """
    eras = read_eras(directory, trusted)
    tree = eras[-1].tree.copy()
    problems: list[Problem] = []
    parser = OverridesParser.create()
    for word in words:
        text = word_rules.friendly(word).lstrip("+")
        try:
            (override,) = parser.parse_overrides([text])
        except (HydraException, ValueError) as error:
            problems.append(Problem(f"{word}: {first_line(error)}", "a resumed run takes KEY=VALUE words"))
            continue
        _apply(tree, override, word, problems)
    if problems:
        raise ConfigError(problems)
    refuse_unsafe(tree)
    named = _resolved(tree).get("plugins")
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        _make_absolute(tree, named)
        # What a change means for a component of theirs is in its signature.
        plugins.load(named)
    changes = Era(None, None, tree).changes(eras[-1])
    return Stored(check_tree(tree), changes, {"config.yaml": OmegaConf.to_yaml(tree)}, eras, tree)


def _apply(tree: DictConfig, override: Override, word: str, problems: list[Problem]) -> None:
    key = override.key_or_group
    option = conf_directory() / key / f"{override.value()}.yaml"
    if override.is_delete() or override.is_sweep_override() or key.startswith("hydra"):
        problems.append(Problem(f"{word}: a resumed run takes no such word", "it takes KEY=VALUE words"))
    elif key in COMPONENTS:
        OmegaConf.update(tree, f"{key}.name", override.value())
    elif key == TRACKERS.group and isinstance(options := override.value(), list):
        _choose_trackers(tree, options, word, problems)
    elif key in ("experiment", "debug"):
        problems.append(Problem(f"{word}: a recipe is another run", "give the single values to change"))
    elif key in tree and isinstance(tree[key], DictConfig) and option.is_file():
        OmegaConf.update(tree, key, OmegaConf.load(option), merge=False)
    else:
        OmegaConf.update(tree, key, override.value(), force_add=True)


def _choose_trackers(tree: DictConfig, options: Sequence[Any], word: str, problems: list[Problem]) -> None:
    folder = conf_directory() / TRACKERS.group
    absent = [str(option) for option in options if not (folder / f"{option}.yaml").is_file()]
    if absent:
        there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        problems.append(Problem(f"{word}: there is no option {absent[0]}", f"there are: {there}"))
    else:
        chosen = [OmegaConf.load(folder / f"{option}.yaml") for option in options]
        OmegaConf.update(tree, TRACKERS.group, OmegaConf.merge({}, *chosen), merge=False, force_add=True)


def _resolved(tree: DictConfig) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_value(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _make_absolute(tree: DictConfig, named: Sequence[str]) -> None:
    """Write the paths, and the ``named`` plugins, in a form that every folder understands."""
    written = OmegaConf.to_container(tree, resolve=False)
    for key in word_rules.PATH_KEYS:
        value = _at(written, key)
        if key.startswith("hydra.") or not isinstance(value, str) or "${" in value:
            continue
        # init_from may be a run's name, or last, instead of a directory.
        if key != "init_from" or _is_folder(value):
            OmegaConf.update(tree, key, _absolute(value))
    OmegaConf.update(tree, "plugins", [plugins.absolute(name) for name in named])


def _is_folder(value: str) -> bool:
    """False also for what could not be the name of one."""
    try:
        return Path(value).expanduser().is_dir()
    except (OSError, RuntimeError):
        return False


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
