"""What differs between the config a run has and the one it is asked to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainctl.config.settings import show
from trainctl.errors import ConfigError, Problem
from trainctl.registry import COMPONENTS, TRACKERS

_HORIZON = ("train.epochs", "train.max_steps", "train.batch_size", "train.accumulate")


@dataclass(frozen=True)
class Change:
    """One key whose value is another now.

    Attributes:
        key, before, after: the key as typed, what the run has, what is asked for.
        inexact: why the run cannot go on as if it had always been so; empty where it can go on from here
            exactly as asked.
    """

    key: str
    before: Any
    after: Any
    inexact: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {show(self.before)} → {show(self.after)}"


def find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The keys that differ, in the order of the config, with what each means for a resumed run.

    Both are whole configs, resolved to plain values. Raises ConfigError for another component: that is
    another run.
    """
    old, new = _flat(before), _flat(after)
    names = [key for key in {**old, **new} if _chooses(key) and old.get(key) != new.get(key)]
    if names:
        raise ConfigError([_refused(key, old.get(key), new.get(key)) for key in names])
    values = {key: (_value(old, key), _value(new, key)) for key in {**old, **new}}
    changed = {key: pair for key, pair in values.items() if pair[0] != pair[1]}
    if "model.freeze" in changed:
        frozen = Change("model.freeze", *changed["model.freeze"])
        raise ConfigError(
            f"{frozen}: the optimizer's state is that of other parameters",
            "train a new run with it; init_from=RUN starts it from this one's weights",
        )
    return [Change(key, *pair, _inexact(key, new)) for key, pair in changed.items()]


def require_allowed(changes: list[Change], *, allowed: bool) -> None:
    """Raise ConfigError for changes that cannot be honoured exactly, unless they are ``allowed``."""
    inexact = [change for change in changes if change.inexact]
    if inexact and not allowed:
        raise ConfigError(
            [
                Problem(f"{change}: {change.inexact}", "add --allow-change to go on all the same")
                for change in inexact
            ]
        )


def _value(flat: Mapping[str, Any], key: str) -> Any:
    """What ``key`` is: an argument that is not given has its default."""
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
        f"{group}={after}: the run was trained with {group}={before}, and another {group} is another run",
        "train a new one; init_from=RUN starts it from this one's weights",
    )


def _inexact(key: str, new: Mapping[str, Any]) -> str:
    group, scheduler = key.partition(".")[0], str(new.get("scheduler.name"))
    if key in _HORIZON and {"total_steps", "steps_per_epoch"} & _supplied(scheduler):
        return f"scheduler={scheduler} was planned over the whole run, and its course changes"
    if group == "scheduler":
        return "the learning rate so far followed another course"
    if key == "seed":
        return "the order of the data and the random numbers so far came from another seed"
    if group == "dataset":
        return "the run so far saw other data"
    if key == "device":
        return "another device rounds differently, and its random numbers are others"
    if key == "train.monitor" or (key == "train.metrics" and new.get("train.monitor") == "auto"):
        return "the best checkpoint so far may have been chosen by another value"
    if key.partition("[")[0] == "plugins":
        return "the run so far used other code"
    if key == "train.ema" and new.get(key) is None:
        return "training would go on from the averaged weights"
    if key == "train.overfit_batches":
        return "the run so far saw other batches"
    if key == "init_from":
        return "it is read once, before the first step"
    return ""


def _supplied(scheduler: str) -> set[str]:
    """What of the run's length the scheduler's constructor asks for; all of it where that is not known."""
    return COMPONENTS["scheduler"].asks_for(scheduler)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != TRACKERS.group:  # none of them: nothing is set
            flat[f"{prefix}{key}"] = value
    return flat
