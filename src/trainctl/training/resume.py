"""From a checkpoint to a run that goes on as if it had not been interrupted."""

from __future__ import annotations

import contextlib
import logging
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, folder_name, is_count, verify_checkpoint
from trainctl.config.config_diff import Change
from trainctl.data.fingerprint import differences, refusal
from trainctl.errors import CheckpointError, ConfigError
from trainctl.paths import short_path
from trainctl.registry.constraints import show
from trainctl.runs import files
from trainctl.runs.record import RunRecord
from trainctl.training.built import Built
from trainctl.training.hooks.plateau import Plateau
from trainctl.training.request import Resumed

log = logging.getLogger("trainctl")
# What restores a state, or works on one.
_STATEFUL = (
    "torch.optim.", "trainctl.training.hooks.", "trainctl.components.optimizers.",
    "trainctl.components.schedulers.",
)  # fmt: skip
# A setting that brings a part into the run, or takes it out.
_PART_OF = {"train.ema": "ema", "train.overfit_batches": "overfit", "scheduler.": "plateau"}
_COURSE = ("train.epochs", "train.max_steps", "train.batch_size", "train.accumulate", "optim.lr")


def resume(
    built: Built,
    content: CheckpointData,
    changes: Sequence[Change] = (),
    detached: Sequence[str] = (),
    *,
    allow_change: bool = False,
) -> list[str]:
    """Restore ``built`` from ``content``, with ``changes`` from here on; returns how the data differs.

    ``detached`` are names of hooks that are in the checkpoint, but not in ``built``. ``allow_change`` goes on
    with other data.

    Raises ConfigError for other data, another model, or a change that cannot be made.
    """
    run, keys = built.run, [change.key for change in changes]
    _check_state(content)
    allowed = allow_change or any(change.key.startswith(("dataset.", "seed")) for change in changes)
    found = check_data(built, content, allowed=allowed)
    fresh = [
        {key: value for key, value in group.items() if key != "params"}
        for group in run.optimizer.param_groups
    ]
    old_lr = [group["lr"] for group in content_groups(content)]
    rescheduled = any(key.startswith("scheduler.") or key in _COURSE for key in keys)
    plateau: Plateau | None = run.hook("plateau")
    if plateau is not None and any(key.startswith("scheduler.") for key in keys):
        raise ConfigError("scheduler=reduce_on_plateau: its settings cannot change in the middle of a run")
    free = {part for setting, part in _PART_OF.items() if any(key.startswith(setting) for key in keys)}
    _restore(built, content, free | set(detached) | ({"scheduler"} if rescheduled else set()))
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
    return found


def apply(built: Built, resumed: Resumed, record: RunRecord) -> list[str]:
    """Restore ``built``, and set damaged checkpoints aside; returns notices."""
    changed = resume(built, resumed.content, resumed.changes, allow_change=resumed.allow_change)
    state, total = built.run.state, built.run.total_steps
    if resumed.finished and resumed.changes and (state.stop is not None or total <= state.step):
        asked = ", ".join(f"{change.key}={show(change.after)}" for change in resumed.changes)
        where = short_path(resumed.checkpoint.parents[1])
        raise ConfigError(
            f"{where}: this run is finished, and has nothing left to train with {asked}",
            f"train longer: train.epochs=N, or more steps than {state.step}; or start another run",
        )
    said = [f"resumed from {resumed.checkpoint.name}", *set_aside(resumed.broken)]
    said += _without_lost_best(built, resumed.checkpoint.parent)
    if lacking := built.run.hook("metrics_log").lacking():
        said.append(f"metrics.jsonl lacks {lacking} bytes that the run wrote before this step")
    if changed:
        record.values["resumed"]["data"] = changed
        said.append(
            f"changed: the data: {'; '.join(changed)}; means and deviations stay those of the run so far"
        )
    for change in resumed.changes:
        inexact = f"; {change.inexact}" if change.inexact else ""
        said.append(f"changed: {change} (the new value wins{inexact})")
    return said


def _restore(built: Built, content: CheckpointData, free: AbstractSet[str]) -> None:
    """Restore the model, the state and every part of the run; ``free`` parts keep their own state."""
    run, state = built.run, content.state
    try:
        run.model.load_state_dict(content.model)
    except (RuntimeError, KeyError) as error:
        raise ConfigError(
            f"the checkpoint's parameters do not fit the model: {_misfit(run, content, error)}",
            "leave the model's arguments as they are; init_from=RUN starts a new run from what fits",
        ) from error
    parts = {name: part for name, part in built.parts().items() if name not in free}
    stored = {name: part for name, part in state["parts"].items() if name not in free}
    content = replace(content, state={**state, "parts": stored})
    try:
        snapshot.restore(content, parts)
        run.state.load_state_dict(dict(state))
    except ValueError as error:
        raise ConfigError(f"the checkpoint's optimizer does not fit: {error}") from error
    except (LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"the checkpoint lacks {error}: an exact resume is not possible") from error


def _misfit(run: Any, content: CheckpointData, error: Exception) -> str:
    """The first tensor that does not fit, and how."""
    own = run.model.state_dict()
    for name in sorted({*content.model, *own}):
        there, here = (
            tuple(tensors[name].shape) if name in tensors else "absent" for tensors in (content.model, own)
        )
        if there != here:
            return f"{name} is {there} there, {here} here"
    return " ".join(str(error).split())


def data_changes(built: Built, content: CheckpointData) -> list[str]:
    """How the data, or its order, differs from the checkpoint's, in words."""
    state = content.state
    return differences(state, built.data, built.data_fingerprint(state["epoch"]))


def check_data(built: Built, content: CheckpointData, *, allowed: bool = False) -> list[str]:
    """How the data differs from the checkpoint's; raises ConfigError where that is not ``allowed``."""
    state, found = content.state, data_changes(built, content)
    if found and not allowed:
        raise ConfigError(
            refusal(found),
            "restore the data; or go on with other data: --allow-change; init_from=RUN starts a new run from"
            " the weights",
        )
    if not allowed and state["position"] > built.run.train_loader.samples:
        raise CheckpointError(
            f"checkpoint position {state['position']} is past the end of the dataset"
            f" ({built.run.train_loader.samples} samples)"
        )
    return found


def _check_state(content: CheckpointData) -> None:
    """Raise CheckpointError for a missing or impossible value, before anything is changed."""
    state = content.state
    wrong = [key for key, usable in _USABLE.items() if key not in state or not usable(state[key])]
    parts: Any = state.get("parts")
    parts = parts if isinstance(parts, dict) else {}
    wrong += [key for key in ("optimizer", "random") if not isinstance(parts.get(key), dict)]
    if not wrong and not state["epoch"] <= state["step"] >= state["evaluated"]:
        wrong = ["step"]
    try:
        wrong += ["optimizer"] if not all(map(_is_group, content_groups(content))) else []
    except (KeyError, TypeError, AttributeError, ValueError):
        wrong.append("optimizer")
    if wrong:
        raise CheckpointError(
            f"the checkpoint lacks a usable {wrong[0]}: an exact resume is not possible",
            "nothing was changed",
        )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_row(value: Any) -> bool:
    """Whether this is an evaluation with its step and epoch, or None."""
    return value is None or (
        isinstance(value, dict)
        and is_count(value.get("step"))
        and is_count(value.get("epoch"))
        and all(map(_is_number, value.values()))
    )


def _is_group(value: Any) -> bool:
    """Whether this is a group of parameters of an optimizer."""
    return isinstance(value, dict) and {"params", "lr"} <= value.keys()


_USABLE: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("step", "epoch", "position", "evaluated", "num_bad_epochs", "skipped", "epoch_samples"), is_count
    ),
    **dict.fromkeys(("lr", "epoch_seconds"), lambda value: _is_number(value) and math.isfinite(value)),
    **dict.fromkeys(("best", "last"), _is_row),
    "best_value": lambda value: value is None or _is_number(value),
    "stop": lambda value: isinstance(value, str | None),
    "data_fingerprint": lambda value: isinstance(value, str),
}


@contextlib.contextmanager
def blamed_on_checkpoint(checkpoint: object) -> Iterator[None]:
    """Raise CheckpointError for an error of what was restored: its state does not go together."""
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not any(name.startswith(_STATEFUL) for name in frames):
            raise
        log.info("after %s was restored", checkpoint, exc_info=error)
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CheckpointError(
            f"{checkpoint} cannot be continued: its state does not go together ({reason})",
            "train.log has more",
        ) from error


def content_groups(content: CheckpointData) -> list[dict[str, Any]]:
    """The optimizer's parameter groups in a checkpoint."""
    state = snapshot.unpack(content.state["parts"]["optimizer"], content.training)
    # An optimizer made of several, such as muon, has theirs.
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
    """Set the learning rate of this step as if the new course had been followed from the start."""
    run, groups = built.run, built.run.optimizer.param_groups
    if plateau is not None:
        bases = plateau.initial_lrs
        for group, wanted, old, base in zip(groups, fresh, old_lr, bases, strict=True):
            # The reductions so far hold for the new one, too.
            group["lr"] = old if wanted["lr"] == base else wanted["lr"] * old / base
        plateau.initial_lrs = [wanted["lr"] for wanted in fresh]
        return
    for group, wanted in zip(groups, fresh, strict=True):
        # All settings: a scheduler keeps its peaks and its momentum there.
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


def _without_lost_best(built: Built, folder: Path) -> list[str]:
    """Forget the best evaluation where its checkpoint is not usable, which could not be tested; notices."""
    state = built.run.state
    if state.best is None or state.best["step"] == state.step:
        return []
    path = folder / folder_name(state.best["step"])
    try:
        verify_checkpoint(path)
    except CheckpointError as error:
        _forget_best(built)
        said = f"the best checkpoint, {path.name}, is lost: the best one is chosen anew from this step on"
        return [*(set_aside([(path, str(error))]) if path.exists() else []), said]
    return []


def set_aside(broken: Sequence[tuple[Path, str]]) -> list[str]:
    """Rename damaged checkpoints, so that the run can write those steps again; a notice for each."""
    said = []
    for path, reason in broken:
        names = (f"damaged-{path.name}{f'-{number}' if number > 1 else ''}" for number in count(1))
        aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        files.rename(path, aside)
        said.append(f"damaged checkpoint set aside as {aside.name}: {reason}")
    return said
