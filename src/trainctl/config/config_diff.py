"""The differences between a run's config and the one that it is resumed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainctl.config.values import flatten
from trainctl.errors import ConfigError, Problem
from trainctl.registry import COMPONENTS, TRACKERS
from trainctl.registry.constraints import show
from trainctl.runs.secrets import masked

_HORIZON = ("train.epochs", "train.max_steps", "train.batch_size", "train.accumulate")

# How data comes here, not what it is: that is compared anyway.
_WAY_OF_DATA = ("dataset.download", "dataset.cache_gb", "dataset.cache_dir")


@dataclass(frozen=True)
class Change:
    """A key whose value is changed.

    Attributes:
        key, before, after: the key as typed, its value in the run, its new value.
        inexact: why the resumed run differs from one that had the new value from the start; empty where the
            new value only matters from here on.
    """

    key: str
    before: Any
    after: Any
    inexact: str = ""

    def __str__(self) -> str:
        return masked(f"{self.key}: {show(self.before)} → {show(self.after)}")


def find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The keys that differ, in the order of the config, with their meaning for a resumed run.

    Both are whole configs, resolved to plain values. Raises ConfigError for another component, with which a
    run cannot be resumed.
    """
    # Without a chosen tracker its group is empty: there is nothing to compare.
    old, new = (
        {key: value for key, value in flatten(values).items() if key != TRACKERS.group}
        for values in (before, after)
    )
    names = [key for key in {**old, **new} if _chooses(key) and old.get(key) != new.get(key)]
    if names:
        raise ConfigError([_refused(key, old.get(key), new.get(key)) for key in names])
    values = {key: (_value(old, key), _value(new, key)) for key in {**old, **new}}
    changed = {key: pair for key, pair in values.items() if pair[0] != pair[1]}
    if "model.freeze" in changed:
        frozen = Change("model.freeze", *changed["model.freeze"])
        raise ConfigError(
            f"{frozen}: cannot be changed, the optimizer's state belongs to other parameters",
            "train a new run with it; init_from=RUN starts from this run's weights",
        )
    if "dataset.scale_target" in changed:
        unit = Change("dataset.scale_target", *changed["dataset.scale_target"])
        raise ConfigError(
            f"{unit}: cannot be changed, the model's outputs are in the unit that it was trained with",
            "train a new run with it",
        )
    return [Change(key, *pair, _inexact(key, new)) for key, pair in changed.items()]


def require_allowed(changes: list[Change], *, allowed: bool) -> None:
    """Raise ConfigError for changes that make the resume inexact, unless they are ``allowed``."""
    inexact = [change for change in changes if change.inexact]
    if inexact and not allowed:
        raise ConfigError(
            [
                Problem(f"{change}: {change.inexact}", "add --allow-change to resume anyway")
                for change in inexact
            ]
        )


def _value(flat: Mapping[str, Any], key: str) -> Any:
    """The value of ``key``; the default for an argument that is not given."""
    group, _, argument = key.partition(".")
    name = flat.get(f"{group}.name")
    if key in flat or group not in COMPONENTS or name is None:
        return flat.get(key)
    found = [each for each in COMPONENTS[group].signature(name).parameters if each.name == argument]
    default = found[0].default if found and not found[0].required else None
    return list(default) if isinstance(default, tuple) else default


def _chooses(key: str) -> bool:
    group, _, leaf = key.partition(".")
    return group in COMPONENTS and leaf == "name"


def _refused(key: str, before: Any, after: Any) -> Problem:
    group = key.partition(".")[0]
    return Problem(
        f"{group}={after}: cannot resume with a different {group}, the run was trained with {group}={before}",
        "train a new run with it; init_from=RUN starts from this run's weights",
    )


def _inexact(key: str, new: Mapping[str, Any]) -> str:
    """Why a change of ``key`` makes the resume inexact; "" where it does not."""
    group, scheduler = key.partition(".")[0], str(new.get("scheduler.name"))
    if key in _HORIZON and {"total_steps", "steps_per_epoch"} & COMPONENTS["scheduler"].takes(scheduler):
        return (
            f"scheduler={scheduler} depends on the length of the run: the learning rate so far was different"
        )
    if group == "scheduler":
        return "the learning rate so far followed a different schedule"
    if key == "seed":
        return "the order of the data and the random numbers so far came from a different seed"
    if group == "dataset" and key not in _WAY_OF_DATA:
        return "the run so far was trained on different data"
    if key == "device":
        return "another device rounds differently and has different random numbers"
    if key == "train.monitor" or (key == "train.metrics" and new.get("train.monitor") == "auto"):
        return "the best checkpoint so far may have been chosen by a different metric"
    if key.partition("[")[0] == "plugins":
        return "the run so far used different code"
    if key == "train.ema" and new.get(key) is None:
        return "training would continue from the averaged weights"
    if key == "train.overfit_batches":
        return "the run so far was trained on different batches"
    if key == "init_from":
        return "it is read once, before the first step"
    return ""
