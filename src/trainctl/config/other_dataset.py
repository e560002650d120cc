"""Another dataset in the place of the one that a run was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from trainctl.config import overrides as word_rules
from trainctl.config.composer import check_tree
from trainctl.config.explain import first_line
from trainctl.config.safety import refuse_unsafe
from trainctl.config.settings import Config
from trainctl.config.stored import read_tree
from trainctl.errors import ConfigError, Problem
from trainctl.paths import conf_directory, user_conf
from trainctl.registry import DATASETS

_REMEDY = "it takes dataset=NAME and dataset.KEY=VALUE"


def read_with_dataset(path: Path, words: Sequence[str]) -> Config:
    """The config that a run stored, with ``dataset=NAME`` and ``dataset.KEY=VALUE`` from ``words``.

    Its plugins are those of a run that has been loaded already. Raises ConfigError for words that do not fit,
    UnsafeInputError for ``_target_`` and its kin.
    """
    tree = read_tree(path, lambda plugins: None)
    parser = OverridesParser.create()
    problems: list[Problem] = []
    chosen, keys = [], []
    for word in words:
        try:
            (override,) = parser.parse_overrides([word_rules.friendly(word).lstrip("+")])
        except (HydraException, ValueError) as error:
            problems.append(Problem(f"{word}: {first_line(error)}", _REMEDY))
            continue
        if override.is_delete() or override.is_sweep_override():
            problems.append(Problem(f"{word}: one value is evaluated at a time", _REMEDY))
        elif override.key_or_group == "dataset":
            chosen.append(str(override.value()))
        elif override.key_or_group.startswith("dataset."):
            keys.append((override.key_or_group, override.value()))
        else:
            problems.append(Problem(f"{word}: only the dataset can be another one", _REMEDY))
    if problems:
        raise ConfigError(problems)
    for name in chosen:
        OmegaConf.update(tree, "dataset", _option(name), merge=False, force_add=True)
    for key, value in keys:
        OmegaConf.update(tree, key, value, force_add=True)
    refuse_unsafe(tree)
    return check_tree(tree)


def _option(name: str) -> object:
    for folder in (user_conf(), conf_directory()):
        option = None if folder is None else folder / "dataset" / f"{name}.yaml"
        if option is not None and option.is_file():
            return OmegaConf.load(option)
    if name not in DATASETS.names():
        raise DATASETS.unknown(name)
    return {"name": name}
