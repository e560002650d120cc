"""Composing the many jobs of a sweep: those that differ in values only share one composition.

Hydra takes a quarter of a second for each; copying a composed tree and setting its values takes two
milliseconds. What could make a difference (an option of a group, a component's name, a key that is not there
yet, a dictionary, which Hydra merges) is composed in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from trainctl.config import overrides as word_rules
from trainctl.config.composer import Composed, Composer, check_tree
from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS

_WHOLE = ("plugins", "experiment", "debug", "name")


def compose_jobs(composer: Composer, jobs: Sequence[Sequence[str]]) -> Iterator[Composed | ConfigError]:
    """Each job composed and checked, or what is wrong with it, in their order."""
    parser = OverridesParser.create(config_loader=composer.loader)
    bases: dict[tuple[object, ...], Composed] = {}
    for job in jobs:
        values, shape = _values(parser, job)
        base = bases.get(shape)
        try:
            if base is None or not (composed := _derive(base, values, tuple(job))):
                composed = composer.compose(job)
                bases.setdefault(shape, composed)
            yield composed
        except ConfigError as error:
            yield error


def _values(parser: OverridesParser, job: Sequence[str]) -> tuple[list[Override], tuple[object, ...]]:
    """The words that only set a value, and a job's shape: the other words, and those ones' keys."""
    values: list[Override] = []
    shape: list[object] = []
    for word in job:
        override = _value(parser, word)
        if override is None:
            shape.append(word)
        else:
            values.append(override)
            shape.append((override.type, override.key_or_group))
    return values, tuple(shape)


def _value(parser: OverridesParser, word: str) -> Override | None:
    key = word_rules.split(word)[1]
    group, _, rest = key.partition(".")
    if key in (*COMPONENTS, *_WHOLE) or group == "hydra" or "/" in key or "@" in key:
        return None
    if group in COMPONENTS and rest == "name":
        return None
    try:
        (override,) = parser.parse_overrides([word])
    except (HydraException, ValueError):
        return None
    if override.is_delete() or override.is_sweep_override() or isinstance(override.value(), dict):
        return None
    return override


def _derive(base: Composed, values: Sequence[Override], words: tuple[str, ...]) -> Composed | None:
    """``base`` with other values; None where a key or a value is not of the kind that can be set alone."""
    tree = base.tree.copy()
    OmegaConf.set_struct(tree, False)
    for override in values:
        key = override.key_or_group
        try:
            there = OmegaConf.select(base.tree, key, throw_on_resolution_failure=False)
            if isinstance(there, DictConfig):
                return None
            OmegaConf.update(tree, key, override.value(), merge=False, force_add=True)
        except OmegaConfBaseException:
            return None
    OmegaConf.set_struct(tree, True)
    return Composed(check_tree(tree), tree, base.full, base.notices, words)
