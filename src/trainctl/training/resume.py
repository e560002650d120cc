"""From a checkpoint back to a run that goes on as if nothing had happened."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import Content
from trainctl.config.config_diff import Change
from trainctl.errors import CheckpointError, ConfigError
from trainctl.runs import files
from trainctl.training.build import Built
from trainctl.training.hooks.plateau import Plateau
from trainctl.training.request import Resumed
from trainctl.training.run import Run

_COUNTS = ("step", "epoch", "position", "evaluated", "num_bad_epochs", "skipped")
_COURSE = ("train.epochs", "train.max_steps", "train.batch_size", "train.accumulate", "optim.lr")


def resume(built: Built, content: Content, changes: Sequence[Change] = ()) -> None:
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
    plateau: Plateau | None = run.hook("plateau")
    if plateau is not None and any(key.startswith("scheduler.") for key in keys):
        raise ConfigError("scheduler=reduce_on_plateau: its settings cannot change in the middle of a run")
    _restore(built, content, rescheduled=rescheduled)
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


def apply(built: Built, resumed: Resumed) -> list[str]:
    """Put ``built`` where the run was; returns what people must be told."""
    resume(built, resumed.content, resumed.changes)
    said = [f"resumed from {resumed.checkpoint.name}", *set_aside(resumed.broken)]
    for change in resumed.changes:
        inexact = f"; {change.inexact}" if change.inexact else ""
        said.append(f"changed: {change} (the new value wins{inexact})")
    return said


def _restore(built: Built, content: Content, *, rescheduled: bool) -> None:
    """Give the model, the state and every part of the run what the checkpoint has of it.

    Where the run is ``rescheduled``, the scheduler keeps its own state: its course is another one now.
    """
    run, state = built.run, content.state
    try:
        run.model.load_state_dict(content.model)
    except (RuntimeError, KeyError) as error:
        raise ConfigError(
            f"the checkpoint's parameters do not fit the model: {_misfit(run, content, error)}",
            "leave the model's arguments as they are; init_from=RUN starts a new run from what fits",
        ) from error
    parts = built.parts()
    if rescheduled:
        parts.pop("scheduler", None)
        stored = {name: part for name, part in state["parts"].items() if name != "scheduler"}
        content = replace(content, state={**state, "parts": stored})
    try:
        snapshot.restore(content, parts)
        run.state.load_state_dict(dict(state))
    except ValueError as error:
        raise ConfigError(f"the checkpoint's optimizer does not fit: {error}") from error
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint lacks {error}: an exact resume is not possible") from error
    if run.state.position >= run.train_loader.samples:
        # Version 0.1 moved the cursor to the next epoch after the evaluation only.
        run.state.epoch, run.state.position = run.state.epoch + 1, 0


def _misfit(run: Run, content: Content, error: Exception) -> str:
    """The first tensor that does not fit, and how."""
    own = run.model.state_dict()
    for name in sorted({*content.model, *own}):
        there, here = (
            tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (content.model, own)
        )
        if there != here:
            return f"{name} is {there} there, {here} here"
    return " ".join(str(error).split())


def check_data(built: Built, content: Content, *, allowed: bool = False) -> None:
    """Raise ConfigError where the data, or the order that it comes in, is not the checkpoint's."""
    state = content.state
    if not allowed and state["data_fingerprint"] != built.data_fingerprint(state["epoch"]):
        raise ConfigError(
            "the training data, or its order, is not what the run was trained on",
            "restore the data; or train a new run, init_from=RUN starts it from this one's weights",
        )
    if not allowed and state["position"] > built.run.train_loader.samples:
        raise CheckpointError(
            f"checkpoint position {state['position']} is past the end of the dataset"
            f" ({built.run.train_loader.samples} samples)"
        )


def _check_state(content: Content) -> None:
    """Raise CheckpointError where something is missing or cannot be: nothing is begun with it."""
    state = content.state
    wrong = [key for key in _COUNTS if type(state.get(key)) is not int or not 0 <= state[key] < 2**63]
    parts: Any = state.get("parts")
    parts = parts if isinstance(parts, dict) else {}
    wrong += [key for key in ("optimizer", "random") if not isinstance(parts.get(key), dict)]
    wrong += [key for key in ("best", "last") if not isinstance(state.get(key), dict | None)]
    if not wrong and not state["epoch"] <= state["step"] >= state["evaluated"]:
        wrong = ["step"]
    if not isinstance(state.get("data_fingerprint"), str):
        wrong.append("data_fingerprint")
    try:
        content_groups(content)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        wrong.append("optimizer")
    if wrong:
        raise CheckpointError(
            f"the checkpoint lacks a usable {wrong[0]}: an exact resume is not possible",
            "nothing was changed",
        )


def content_groups(content: Content) -> list[dict[str, Any]]:
    """The optimizer's parameter groups in a checkpoint."""
    state = snapshot.unpack(content.state["parts"]["optimizer"], content.training)
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
    state.best, state.best_value, state.num_bad_epochs = None, None, 0
    if (checkpointer := built.run.hook("checkpoints")) is not None:
        checkpointer.load_state_dict({"ranked": []})


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
