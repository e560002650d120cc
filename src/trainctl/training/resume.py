"""From a checkpoint back to a run that goes on as if nothing had happened."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData
from trainctl.config.config_diff import Change
from trainctl.errors import CheckpointError, ConfigError
from trainctl.runs import files
from trainctl.training.build import Built
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.hooks.plateau import Plateau

_COUNTS = ("step", "epoch", "position", "evaluated", "stale", "skipped")
_COURSE = ("train.epochs", "train.max_steps", "train.batch_size", "train.accumulate", "optim.lr")


def resume(built: Built, content: CheckpointData, changes: Sequence[Change] = ()) -> None:
    """Make ``built`` the run that ``content`` was taken of, with ``changes`` made to it from here on.

    Raises ConfigError for what does not fit: other data, another model, a change that cannot be made.
    """
    run, keys = built.run, [change.key for change in changes]
    _check_state(content)
    check_data(built, content, allowed=any(change.key.startswith(("dataset.", "seed")) for change in changes))
    fresh = [
        {key: value for key, value in group.items() if key != "params"}
        for group in run.optimizer.param_groups
    ]
    old_lr = [group["lr"] for group in content_groups(content)]
    rescheduled = any(key.startswith("scheduler.") or key in _COURSE for key in keys)
    scheduler, plateau = run.scheduler, next((hook for hook in run.hooks if isinstance(hook, Plateau)), None)
    if plateau is not None and any(key.startswith("scheduler.") for key in keys):
        raise ConfigError("scheduler=reduce_on_plateau: its settings cannot change in the middle of a run")
    if rescheduled:
        run.scheduler = None  # its course is another one now
    try:
        snapshot.restore(run, content, built.device)
    finally:
        run.scheduler = scheduler
    if run.state.evaluated == run.state.step:
        # The checkpoint was taken at the end of an epoch, whose time is not the next one's.
        run.state.epoch_seconds, run.state.epoch_samples = 0.0, 0
    for key in keys:
        group, _, argument = key.partition(".")
        if group == "optim" and argument != "lr":
            _set(run.optimizer.param_groups, fresh, argument.partition(".")[0])
    if rescheduled:
        _reschedule(built, fresh, old_lr, plateau)
    if any(change.key in ("train.monitor", "train.metrics") and change.inexact for change in changes):
        _forget_best(built)
    _check_length(built, keys)


def check_data(built: Built, content: CheckpointData, *, allowed: bool = False) -> None:
    """Raise ConfigError where the data, or the order that it comes in, is not the checkpoint's."""
    state = content.state
    if not allowed and state["order"] != built.order_digest(state["epoch"]):
        raise ConfigError(
            "the training data, or its order, is not what the run was trained on",
            "restore the data; or train a new run, init_from=RUN starts it from this one's weights",
        )
    if not allowed and state["position"] > built.run.train.samples:
        raise CheckpointError("the checkpoint's position lies behind the end of the data")


def _check_state(content: CheckpointData) -> None:
    """Raise CheckpointError where something is missing or cannot be: nothing is begun with it."""
    state = content.state
    wrong = [key for key in _COUNTS if type(state.get(key)) is not int or not 0 <= state[key] < 2**63]
    wrong += [key for key in ("optimizer", "hooks", "random") if not isinstance(state.get(key), dict)]
    wrong += [key for key in ("best", "last") if not isinstance(state.get(key), dict | None)]
    if not wrong and not state["epoch"] <= state["step"] >= state["evaluated"]:
        wrong = ["step"]
    if "scheduler" not in state or not isinstance(state.get("order"), str):
        wrong.append("scheduler" if "scheduler" not in state else "order")
    try:
        content_groups(content)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        wrong.append("optimizer")
    if wrong:
        raise CheckpointError(
            f"the checkpoint lacks a usable {wrong[0]}: an exact resume is not possible",
            "nothing was changed",
        )


def content_groups(content: CheckpointData) -> list[dict[str, Any]]:
    """The optimizer's parameter groups in a checkpoint."""
    state = snapshot.unpack(content.state["optimizer"], content.training)
    # One that is made of several, as muon is, has theirs.
    return [group for part in state.get("parts", [state]) for group in part["param_groups"]]


def _set(groups: list[dict[str, Any]], fresh: list[dict[str, Any]], argument: str) -> None:
    for group, wanted in zip(groups, fresh, strict=True):
        if argument not in wanted:
            raise ConfigError(
                f"optim.{argument}: cannot change in the middle of a run",
                "the optimizer reads it only at its start",
            )
        group[argument] = wanted[argument]


def _reschedule(
    built: Built, fresh: list[dict[str, Any]], old_lr: list[float], plateau: Plateau | None
) -> None:
    """The learning rate that the new course gives this step, as if it had been followed from the start."""
    run, groups = built.run, built.run.optimizer.param_groups
    if plateau is not None:
        bases = plateau.initial_lrs
        for group, wanted, old, base in zip(groups, fresh, old_lr, bases, strict=True):
            # What it has been reduced by so far holds for the new one, too.
            group["lr"] = old if wanted["lr"] == base else wanted["lr"] * old / base
        plateau.initial_lrs = [wanted["lr"] for wanted in fresh]
        return
    for group, wanted in zip(groups, fresh, strict=True):
        # All of it: a scheduler keeps its peaks and its momentum there.
        group.update(wanted)
    if run.scheduler is not None:
        with warnings.catch_warnings():
            # torch warns of steps without the optimizer's; those were taken before.
            warnings.simplefilter("ignore")
            for _ in range(run.state.step):
                run.scheduler.step()


def _forget_best(built: Built) -> None:
    state = built.run.state
    state.best, state.reference, state.stale = None, None, 0
    for hook in built.run.hooks:
        if isinstance(hook, Checkpointer):
            hook.load_state_dict({"ranked": []})


def _check_length(built: Built, keys: list[str]) -> None:
    run = built.run
    if run.total_steps < run.state.step:
        raise ConfigError(
            f"the run has taken {run.state.step} steps already, more than the {run.total_steps} asked for",
            "ask for more with train.epochs or train.max_steps",
        )
    if run.state.stop is not None and any(
        key in ("train.patience", "train.min_delta", *_COURSE) for key in keys
    ):
        run.state.stop = None


def set_aside(broken: Sequence[tuple[Path, str]]) -> list[str]:
    """Rename damaged checkpoints, so that the run can write those steps again; says so, a line each."""
    said = []
    for path, reason in broken:
        aside = path.with_name(f"damaged-{path.name}")
        number = 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"damaged-{path.name}-{number}")
        files.rename(path, aside)
        said.append(f"damaged checkpoint set aside as {aside.name}: {reason}")
    return said
