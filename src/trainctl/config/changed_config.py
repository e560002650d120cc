"""A run's stored config with overrides applied, for resuming it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainctl.config.composer import check_tree
from trainctl.config.config_diff import Change
from trainctl.config.overrides import to_hydra
from trainctl.config.safety import refuse_unsafe
from trainctl.config.settings import Config
from trainctl.config.stored_config import (
    HISTORY,
    ConfigVersion,
    make_absolute,
    read_versions,
    resolved,
    version_at,
)
from trainctl.config.values import first_line
from trainctl.errors import ConfigError, Problem
from trainctl.paths import conf_directory
from trainctl.registry import COMPONENTS, TRACKERS, plugins

_REMEDY = "a resumed run takes KEY=VALUE"


@dataclass(frozen=True)
class ChangedConfig:
    """A run's config with overrides applied.

    Attributes:
        config: the checked settings, changes included.
        changes: how they differ from the previous version.
        files: the files that the run stores, by name.
        versions: the versions that the run has stored so far.
        tree: the config, changes included, not resolved.
    """

    config: Config
    changes: list[Change]
    files: dict[str, str]
    versions: list[ConfigVersion]
    tree: DictConfig

    def from_checkpoint(self, step: int, threads: int | None) -> ChangedConfig:
        """The same for a run that resumes at the checkpoint of ``step``.

        That checkpoint may be older than the newest version: a run that is resumed with changes and killed
        before its next checkpoint has stored them and trained nothing with them. ``threads`` is the number
        of threads so far.
        """
        then, now = version_at(self.versions, step), ConfigVersion(None, None, self.tree)
        changes = now.changes(then)
        kept = [version for version in self.versions if version.until is not None and version.until < step]
        if changes:
            kept.append(ConfigVersion(step, then.threads or threads, then.tree))
        if not kept and len(self.versions) == 1:
            return replace(self, changes=changes)
        history = OmegaConf.to_yaml(OmegaConf.create([version.stored() for version in kept]))
        # Written first: after a kill in between, the checkpoint's own settings would otherwise be lost.
        return replace(self, changes=changes, files={HISTORY: history, **self.files})


def change_config(
    directory: Path, overrides: Sequence[str], trusted: Callable[[list[str]], None]
) -> ChangedConfig:
    """The config of the run in ``directory`` with ``overrides`` (KEY=VALUE) applied.

    Values reach everything that refers to them; ``guard=full`` and the like set all of the group's values.
    Raises ConfigError for overrides that do not fit and for another component, UnsafeInputError for
    ``_target_``.
    """
    versions = read_versions(directory, trusted, overrides)
    tree = versions[-1].tree.copy()
    problems: list[Problem] = []
    for override, parsed in parse_overrides(overrides, problems, _REMEDY):
        _apply(tree, parsed, override, problems)
    if problems:
        raise ConfigError(problems)
    refuse_unsafe(tree)
    named = resolved(tree).get("plugins")
    if isinstance(named, list) and all(isinstance(name, str) for name in named):
        make_absolute(tree, named)
        # What a change means for a plugin's component depends on its signature.
        plugins.load(named)
    changes = ConfigVersion(None, None, tree).changes(versions[-1])
    files = {"config.yaml": OmegaConf.to_yaml(tree)}
    return ChangedConfig(check_tree(tree), changes, files, versions, tree)


def not_begun_with(directory: Path, overrides: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The overrides that the run in ``directory`` did not begin with. Imports no plugin.

    The others are not applied again: a notice says which settings were changed since.
    """
    path = directory / "overrides.yaml"
    try:
        begun = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else []
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {first_line(error)}") from error
    left = [word for word in overrides if not isinstance(begun, list) or to_hydra(word) not in begun]
    if left == list(overrides):
        return left, ()
    versions = read_versions(directory, lambda named: None, overrides)
    since = [str(change) for change in versions[-1].changes(versions[0])]
    return left, (f"an earlier resume changed, and this keeps: {'; '.join(since)}",) if since else ()


def parse_overrides(
    overrides: Sequence[str], problems: list[Problem], remedy: str
) -> Iterator[tuple[str, Override]]:
    """Each override as typed and parsed; a problem with ``remedy`` for each that is not valid."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            (parsed,) = parser.parse_overrides([to_hydra(override).lstrip("+")])
        except (HydraException, ValueError) as error:
            problems.append(Problem(f"{override}: {first_line(error)}", remedy))
        else:
            yield override, parsed


def _apply(tree: DictConfig, parsed: Override, override: str, problems: list[Problem]) -> None:
    key = parsed.key_or_group
    option = conf_directory() / key / f"{parsed.value()}.yaml"
    if parsed.is_delete() or parsed.is_sweep_override() or key.startswith("hydra"):
        problems.append(Problem(f"{override}: cannot be changed in a run", _REMEDY))
    elif key in COMPONENTS:
        OmegaConf.update(tree, f"{key}.name", parsed.value())
    elif key == TRACKERS.group and isinstance(options := parsed.value(), list):
        _choose_trackers(tree, options, override, problems)
    elif key in ("experiment", "debug"):
        problems.append(
            Problem(f"{override}: cannot be applied to an existing run", "give the single values to change")
        )
    elif key in tree and isinstance(tree[key], DictConfig) and option.is_file():
        OmegaConf.update(tree, key, OmegaConf.load(option), merge=False)
    else:
        OmegaConf.update(tree, key, parsed.value(), force_add=True)


def _choose_trackers(
    tree: DictConfig, options: Sequence[Any], override: str, problems: list[Problem]
) -> None:
    folder = conf_directory() / TRACKERS.group
    absent = [str(option) for option in options if not (folder / f"{option}.yaml").is_file()]
    if absent:
        available = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        problems.append(Problem(f"{override}: there is no option {absent[0]}", f"there are: {available}"))
    else:
        chosen = [OmegaConf.load(folder / f"{option}.yaml") for option in options]
        OmegaConf.update(tree, TRACKERS.group, OmegaConf.merge({}, *chosen), merge=False, force_add=True)
