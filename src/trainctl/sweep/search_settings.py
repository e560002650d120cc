"""The settings and the space of a search, checked before anything is made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from trainctl.config.composer import Composer
from trainctl.config.overrides import split_override, to_hydra
from trainctl.config.settings import Config
from trainctl.config.validation import check_settings
from trainctl.errors import ConfigError, Problem
from trainctl.registry import Count, NonNegativeInt
from trainctl.registry.constraints import show
from trainctl.sweep.checking import NOT_IN_KEY, check_all, task_words
from trainctl.sweep.space import Interval, Space, parse_space


class SearchSettings(BaseModel):
    """``hydra.sweeper`` of ``hydra/sweeper=optuna``; its file explains each."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    trials: Count
    sampler: Literal["tpe", "random", "grid"]
    seed: NonNegativeInt
    batch: Literal["auto"] | Count
    pruner: Literal["none", "median", "hyperband"]
    params: dict[str, str | int | float | bool | None]


def check_search(
    composer: Composer, words: Sequence[str], values: Mapping[str, Any]
) -> tuple[SearchSettings, Space, Config]:
    """The search's settings, its space, and the config of one of its jobs. Raises ConfigError."""
    if find_spec("optuna") is None:
        raise ConfigError(
            "hydra/sweeper=optuna: the package optuna is not installed", "pip install 'trainctl[search]'"
        )
    settings = check_settings(SearchSettings, "hydra.sweeper", values)
    given = {split_override(word)[1] for word in words}
    params = [to_hydra(f"{key}={show(value)}", sweep=True) for key, value in settings.params.items()]
    params = [word for word in params if split_override(word)[1] not in given]
    space = parse_space(composer.parse([*params, *words]))
    if settings.sampler == "grid" and math.isinf(space.size):
        endless = next(key for key, domain in space.domains.items() if math.isinf(domain.size))
        raise ConfigError(
            f"hydra.sweeper.sampler=grid: {endless.lstrip('+')} is an interval with endless values",
            "give it choice(1e-3,1e-2) or range(0,10,2), or use the sampler tpe or random",
        )
    try:
        return settings, space, check_all(composer, list(space.corners())).configs[0]
    except ConfigError as error:
        raise ConfigError([_whole_number_remedy(problem, space) for problem in error.problems]) from error


def _whole_number_remedy(problem: Problem, space: Space) -> Problem:
    """The problem, for an interval that must be of whole numbers with the syntax of one."""
    for key, domain in space.domains.items():
        name = key.lstrip("+")
        if not problem.message.startswith(f"{name}=") or "whole number" not in problem.message:
            continue
        if isinstance(domain, Interval) and not domain.whole:
            written = f"interval({domain.low:g},{domain.high:g})"
            return Problem(problem.message, f"whole numbers are {name}='int({written})'")
    return problem


def search_key(space: Space) -> list[str]:
    """Equal for searches of the same space with the same words that determine results."""
    keys = iter(f"{key}={domain}" for key, domain in space.domains.items())
    words = [next(keys) if word is None else word for word in space.words]
    return sorted(
        word for word in task_words(words) if split_override(word)[1].partition(".")[0] not in NOT_IN_KEY
    )
