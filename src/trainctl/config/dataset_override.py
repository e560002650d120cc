"""A run's stored config with another dataset, for evaluating the run on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from trainctl.config.changed_config import parse_overrides
from trainctl.config.composer import check_tree
from trainctl.config.connections import without_download
from trainctl.config.safety import refuse_unsafe
from trainctl.config.settings import Config
from trainctl.config.stored_config import read_tree
from trainctl.errors import ConfigError, Problem
from trainctl.paths import conf_directory, user_conf
from trainctl.registry import DATASETS

_REMEDY = "give dataset=NAME and dataset.KEY=VALUE"


def read_with_dataset(path: Path, overrides: Sequence[str]) -> Config:
    """The config that a run stored, with ``dataset=NAME`` and ``dataset.KEY=VALUE`` from ``overrides``.

    Its plugins are those of a run that has been loaded already. Raises ConfigError for overrides that do not
    fit, UnsafeInputError for ``_target_`` and its kin.
    """
    tree = read_tree(path, lambda plugins: None, tracked=False)
    problems: list[Problem] = []
    dataset, keys = None, []
    for override, parsed in parse_overrides(overrides, problems, _REMEDY):
        if parsed.is_delete() or parsed.is_sweep_override():
            problems.append(Problem(f"{override}: must be a single value", _REMEDY))
        elif parsed.key_or_group == "dataset":
            dataset = str(parsed.value())
        elif parsed.key_or_group.startswith("dataset."):
            keys.append((parsed.key_or_group, parsed.value()))
        else:
            problems.append(Problem(f"{override}: only the dataset can be replaced", _REMEDY))
    if problems:
        raise ConfigError(problems)
    if dataset is not None:
        OmegaConf.update(tree, "dataset", _option(dataset), merge=False, force_add=True)
    for key, value in keys:
        OmegaConf.update(tree, key, value, force_add=True)
    refuse_unsafe(tree)
    config = check_tree(tree)
    asked = dataset is not None or any(key == "dataset.download" for key, _ in keys)
    return config if asked else without_download(config, path.parent)


def _option(name: str) -> object:
    for folder in (user_conf(), conf_directory()):
        option = None if folder is None else folder / "dataset" / f"{name}.yaml"
        if option is not None and option.is_file():
            return OmegaConf.load(option)
    if name not in DATASETS.names():
        raise DATASETS.unknown(name)
    return {"name": name}
