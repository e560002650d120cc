"""The proof that a run resumes exactly: its steps, taken again from its checkpoints and compared."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint import format as checkpoint
from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import Content
from trainctl.config.config_diff import Change
from trainctl.config.settings import Config
from trainctl.config.stored import Era, era_of
from trainctl.errors import CheckpointError, ConfigError, NotFiniteError, TrainctlError
from trainctl.registry import COMPONENTS
from trainctl.runs import directory as rundir
from trainctl.training import resume as resuming
from trainctl.training import runtime
from trainctl.training.build import Built, build
from trainctl.training.run import Hook, Run

_NOT_COMPARED = ("samples_per_second",)
_CURSOR = ("step", "epoch", "position", "evaluated")
_EVALUATIONS = "best and early stopping"
_NO_COURSE = ("checkpoint.", "display.", "loader.", "name", "profile")
# A model of a stack is summed in another order: its numbers are those of the standard loop to a float's last
# digits, of which each step takes some more, and a sample near the border may fall on the other side of it.
_FUSED = 0.02
_RESULTS = ("best", "last", "stale", "reference", "stop", "skipped")


@dataclass(frozen=True)
class Recorded:
    """What ``metrics.jsonl`` says, by step."""

    steps: Mapping[int, Mapping[str, Any]]
    evaluations: Mapping[int, Mapping[str, Any]]

    @property
    def last(self) -> int:
        return max(self.steps, default=0)


@dataclass(frozen=True)
class Kept:
    """A checkpoint that is whole. ``evaluated`` is the step of the last evaluation before it was taken."""

    path: Path
    step: int
    evaluated: int


@dataclass(frozen=True)
class Stretch:
    """Steps to take again, from ``start`` to ``end``.

    Attributes:
        checkpoint: where it starts; None is the beginning of the run.
        marks: the checkpoints that come next, to compare with where the stretch reaches them.
        era: the settings.
        changes: what differs from the settings of ``checkpoint``.
    """

    start: int
    end: int
    checkpoint: Kept | None
    marks: tuple[Kept, ...]
    era: Era
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Gap:
    """Steps that cannot be taken again."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True)
class Checked:
    """What a stretch has shown.

    Attributes:
        steps, evaluations: how many were the same.
        difference: the first thing that was not; None where everything was.
    """

    stretch: Stretch
    steps: int
    evaluations: int
    difference: str | None


class _ReachedError(Exception):
    """Ends the training loop where the stretch does."""


class _DifferentError(Exception):
    """Ends the training loop at the first thing that differs."""


# ------------------------------------------------------------------ what there is


def read_metrics(path: Path) -> Recorded:
    """The losses and evaluations of a run. Raises ConfigError where there are none, or no valid ones."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: there is nothing to compare with") from None
    steps: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[int, Mapping[str, Any]] = {}
    # What comes after the last end of a line was being written when the run was killed.
    for number, line in enumerate(lines[:-1], 1):
        try:
            values = json.loads(line)
            step = int(values["step"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path} line {number} is damaged: {error}") from None
        if "train/loss" in values:
            steps[step] = values
        elif any(key.startswith("val/") for key in values):
            evaluations[step] = values
    return Recorded(steps, evaluations)


def find_checkpoints(folder: Path) -> tuple[list[Kept], list[str]]:
    """The checkpoints that are whole, oldest first, and what is wrong with the others.

    Raises CheckpointError (exit 4) when none is, UnsafeInputError as :func:`trainctl.checkpoint.format.read`.
    """
    kept, broken = [], []
    for path in sorted(folder.glob("step-*"), key=lambda path: (len(path.name), path.name)):
        try:
            state = checkpoint.read(path).state
            kept.append(Kept(path, int(state["step"]), int(state["evaluated"])))
        except CheckpointError as error:
            broken.append(str(error))
        except (KeyError, ValueError, TypeError) as error:
            broken.append(f"{path} lacks {error}")
    if not kept:
        listed = f"no usable checkpoint: {'; '.join(broken)}" if broken else "no checkpoint"
        raise CheckpointError(f"{folder} has {listed}", "nothing can be verified without one")
    return sorted(kept, key=lambda each: each.step), broken


# ------------------------------------------------------------------ what to do


def courses(eras: Sequence[Era]) -> list[Era]:
    """The eras without those that trained as the next one does: one that only trained longer, say."""
    found: list[Era] = []
    for era in eras:
        before = found.pop() if found and _same_course(found[-1], era) else None
        found.append(era if before is None else replace(era, threads=era.threads or before.threads))
    return found


def _same_course(before: Era, after: Era) -> bool:
    # Where max_steps ends a run, it is evaluated in the middle of an epoch.
    whole = {era.config.train.max_steps for era in (before, after)} == {None}
    return all(
        change.key.startswith(_NO_COURSE) or (change.key == "train.epochs" and whole and not change.inexact)
        for change in after.changes(before)
    )


def plan(
    kept: Sequence[Kept], recorded: Recorded, eras: Sequence[Era], limit: int, beginning: str | None = None
) -> list[Stretch | Gap]:
    """The stretches of a run, each at most ``limit`` steps, or to the next checkpoint.

    ``beginning`` says why the run cannot be begun again, where it cannot.
    """
    horizon = max(recorded.last, kept[-1].step)
    resumes = getattr(COMPONENTS["loop"].load(eras[-1].config.loop.name), "resumes", True)
    found: list[Stretch | Gap] = []
    for start in (None, *(kept if resumes else ())):
        step = 0 if start is None else start.step
        era = era_of(eras, step + 1)
        until = horizon if era.until is None else era.until
        marks = [each for each in kept if step < each.step <= until]
        if resumes:
            marks = marks[:1]
        end = min(step + limit, until, *(each.step for each in marks[:1] if resumes), horizon)
        pending = start is not None and start.evaluated < step and step in recorded.evaluations
        if end <= step and not pending:
            continue
        if start is None and beginning is not None:
            found.append(Gap(step, end, beginning))
            continue
        changes = () if start is None else tuple(era.changes(era_of(eras, step)))
        found.append(Stretch(step, max(step, end), start, tuple(marks), era, changes))
    for era in eras[:-1]:
        if era.until is not None and era.until < horizon and all(each.step != era.until for each in kept):
            end = min((each.step for each in kept if each.step > era.until), default=horizon)
            reason = f"the settings changed at step {era.until}, whose checkpoint was not kept"
            found.append(Gap(era.until, end, reason))
    return sorted(found, key=lambda each: (each.start, each.end))


def why_no_beginning(init_from: str | None) -> str | None:
    """Why a run that started from another's weights cannot be begun again; None where it can."""
    if init_from is None:
        return None
    if init_from == "last":
        return "init_from=last was another run then"
    try:
        directory = rundir.find(init_from)
        checkpoint.verify(checkpoint.best_of(directory, rundir.read_record(directory)))
    except TrainctlError as error:
        return f"init_from: {error}"
    return None


def recorded_config(era: Era, stretch_from: Kept | None, record: Mapping[str, Any]) -> Config:
    """The settings of ``era`` with the threads of then, and the device of then where it is there."""
    config, environment = era.config, record.get("environment") or {}
    device = config.device
    if device == "auto":
        device = str(environment.get("device") or "auto").partition(" ")[0]
    try:
        runtime.choose_device(device)
    except ConfigError:
        device = "auto"
    threads = config.threads
    if threads == "auto":
        threads = era.threads or environment.get("threads") or threads
    init_from = config.init_from if stretch_from is None else None
    return replace(config, device=device, threads=threads, init_from=init_from)


# ------------------------------------------------------------------ doing it


def tolerance_of(record: Mapping[str, Any]) -> float:
    """How far, relative to its size, a number may be off: 0 is to the last bit."""
    return _FUSED if record.get("engine") == "fused" else 0.0


def take_again(stretch: Stretch, record: Mapping[str, Any], recorded: Recorded) -> Checked:
    """Train the stretch once more and compare. Raises what building the run raises, CheckpointError."""
    config = recorded_config(stretch.era, stretch.checkpoint, record)
    with contextlib.closing(build(config)) as built:
        comparing = _Comparing(stretch, recorded, built, tolerance_of(record))
        difference = _first_difference(built, comparing, stretch, record)
    return Checked(stretch, comparing.steps, comparing.evaluations, difference)


def _first_difference(
    built: Built, comparing: _Comparing, stretch: Stretch, record: Mapping[str, Any]
) -> str | None:
    run = built.run
    try:
        _put(built, comparing, stretch)
        run.hooks = [*run.hooks, comparing]
        built.fit(run)
        comparing.finished(run)
    except _ReachedError:
        return comparing.missing()
    except _DifferentError as different:
        return str(different)
    except NotFiniteError as error:
        # Ended like this once before, it is the same.
        same = record.get("exit_code") == error.exit_code and record.get("reason") == str(error)
        return None if same else f"loss of step {run.state.step + 1}: {error}"
    return comparing.missing()


def _put(built: Built, comparing: _Comparing, stretch: Stretch) -> None:
    """Bring the run to the start of the stretch. Raises _DifferentError where that comes out as another."""
    kept = stretch.checkpoint
    start = None if kept is None else checkpoint.read(kept.path)
    known = [] if start is None or stretch.changes else [start]
    known += [checkpoint.read(mark.path) for mark in stretch.marks[:1]]
    for content in known:
        if content.state["data_fingerprint"] != built.data_fingerprint(content.state["epoch"]):
            raise _DifferentError(
                "data order: the training targets, or their order, are not those of the run"
            )
    if start is None:
        return
    if stretch.changes:
        resuming.resume(built, start, stretch.changes)
        return
    resuming.resume(built, start)
    if (found := compare(start, comparing.content(built.run))) is not None:
        raise _DifferentError(f"{found[0]} at step {stretch.start}: not read back as stored: {found[1]}")


class _Comparing(Hook):
    """Compares what the run does with what was recorded.

    Raises _DifferentError at the first difference, _ReachedError at the end of the stretch.
    """

    def __init__(self, stretch: Stretch, recorded: Recorded, built: Built, tolerance: float) -> None:
        self.stretch, self.recorded, self.built = stretch, recorded, built
        self.tolerance = tolerance
        self.marks = {mark.step: mark for mark in stretch.marks}
        self.steps = self.evaluations = 0
        self._evaluated: set[int] = set()
        self._orders: dict[int, str] = {}

    def step(self, run: Run, loss: Tensor) -> None:
        step = run.state.step
        if step > self.stretch.end:
            raise _ReachedError
        then = self.recorded.steps.get(step)
        if then is None:
            raise _DifferentError(f"loss of step {step}: metrics.jsonl has none")
        _compare_value(f"loss of step {step}", then["train/loss"], loss.item(), self.tolerance)
        _compare_value(f"learning rate of step {step}", then["lr"], run.state.lr)
        self.steps += 1
        mark = self.marks.get(step)
        if mark is not None and mark.evaluated < step:
            self._compare_all(run, mark)
        if step == self.stretch.end and not self._evaluates(step):
            raise _ReachedError

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        step = run.state.step
        self._evaluated.add(step)
        if values:
            self._compare_evaluation(step, {**run.state.where, **values})
            self.evaluations += 1
        mark = self.marks.get(step)
        if mark is not None and mark.evaluated == step:
            self._compare_all(run, mark)
        if step >= self.stretch.end:
            raise _ReachedError

    def finished(self, run: Run) -> None:
        """Raise _DifferentError where training ended before the stretch did."""
        step, end = run.state.step, self.stretch.end
        if step < end:
            why = run.state.stop or "it is the last one"
            raise _DifferentError(f"end of training: {end} steps recorded, {step} now: {why}")

    def missing(self) -> str | None:
        """An evaluation that was recorded and has not come."""
        start, end = self.stretch.start, self.stretch.end
        # That of the start came before its checkpoint, or else is the first thing to be done.
        expected = {step for step in self.recorded.evaluations if start < step <= end}
        absent = sorted(expected - self._evaluated)
        return f"evaluation at step {absent[0]}: recorded, not made now" if absent else None

    def content(self, run: Run) -> Content:
        """The run as a checkpoint would hold it."""
        epoch = run.state.epoch
        if epoch not in self._orders:
            self._orders = {epoch: self.built.data_fingerprint(epoch)}
        return self.built.snapshot(self._orders[epoch])

    def _evaluates(self, step: int) -> bool:
        mark = self.marks.get(step)
        return step in self.recorded.evaluations or (mark is not None and mark.evaluated == step)

    def _compare_evaluation(self, step: int, now: Mapping[str, Any]) -> None:
        then = self.recorded.evaluations.get(step)
        if then is None:
            raise _DifferentError(f"evaluation at step {step}: made now, not recorded")
        for key in {**then, **now}:
            if key not in _NOT_COMPARED:
                what = f"evaluation at step {step}: {key}"
                _compare_value(what, then.get(key), now.get(key), self.tolerance)

    def _compare_all(self, run: Run, mark: Kept) -> None:
        found = compare(checkpoint.read(mark.path), self.content(run), self.tolerance)
        if found is not None:
            raise _DifferentError(f"{found[0]} at step {mark.step}: {found[1]}")


# ------------------------------------------------------------------ comparing


def compare(then: Content, now: Content, tolerance: float = 0.0) -> tuple[str, str] | None:
    """What differs first between two contents, in the order of cause and effect, and where in it.

    With a ``tolerance`` the results of evaluations are left out: of two that are nearly the same either may
    be the best.

    Raises CheckpointError where ``then`` lacks something.
    """
    try:
        for what, values in _causes(now):
            if tolerance and what == _EVALUATIONS:
                continue
            if (where := _difference(values(then), values(now), tolerance=tolerance)) is not None:
                return what, where
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint at step {then.step} lacks {error}") from error
    return None


def _causes(now: Content) -> Iterator[tuple[str, Callable[[Content], Any]]]:
    """What decides how a run goes on, causes first, each with the way to find it."""

    def packed(content: Content, value: Any) -> Any:
        return snapshot.unpack(value, content.training)

    def hook(name: str) -> Callable[[Content], Any]:
        return lambda content: packed(content, content.state["hooks"].get(name))

    yield "data order", lambda content: {key: content.state[key] for key in ("data_fingerprint", *_CURSOR)}
    yield "random numbers", lambda content: packed(content, content.state["random"])
    yield "optimizer", lambda content: packed(content, content.state["optimizer"])
    yield "scheduler", lambda content: packed(content, content.state["scheduler"])
    yield "scheduler", hook("Plateau")
    yield _EVALUATIONS, lambda content: {key: content.state[key] for key in _RESULTS}
    for name in now.state["hooks"]:
        if name not in ("Plateau", _Comparing.__name__):
            yield f"hook {name}", hook(name)
    yield "weights", lambda content: dict(content.model)


def _difference(then: Any, now: Any, place: str = "", tolerance: float = 0.0) -> str | None:
    """Where two values differ, bit for bit or by more than the tolerance, and how; None where they do not."""
    if isinstance(then, Tensor) and isinstance(now, Tensor):
        same = (then.dtype, then.shape) == (now.dtype, now.shape)
        same = same and (_bytes(then) == _bytes(now) or _near(then, now, tolerance))
        return None if same else place
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        pairs = [(key, then.get(key, _ABSENT), now.get(key, _ABSENT)) for key in {**then, **now}]
    elif isinstance(then, list | tuple) and isinstance(now, list | tuple) and len(then) == len(now):
        pairs = [(index, *pair) for index, pair in enumerate(zip(then, now, strict=True))]
    else:
        return None if _text(then) == _text(now) else _shown(place, then, now)
    for key, one, other in pairs:
        found = _difference(one, other, f"{place}.{key}" if place else str(key), tolerance)
        if found is not None:
            return found
    return None


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _near(then: Tensor, now: Tensor, tolerance: float) -> bool:
    """Whether two tensors are the same to the tolerance, relative to the size of all their values."""
    if not tolerance or not then.is_floating_point():
        return False
    off = torch.linalg.vector_norm(then.double().cpu() - now.double().cpu())
    return bool(off <= tolerance * torch.linalg.vector_norm(then.double()) + 1e-12)


def _compare_value(what: str, then: Any, now: Any, tolerance: float = 0.0) -> None:
    # As it is written: JSON has no NaN and no infinity.
    written = str(now) if isinstance(now, float) and now - now != 0 else now
    if tolerance and isinstance(then, float) and isinstance(written, float):
        same = math.isclose(then, written, rel_tol=tolerance, abs_tol=tolerance)
    else:
        same = _text(then) == _text(written)
    if not same:
        raise _DifferentError(f"{what}: {then} recorded, {written} now")


def _text(value: Any) -> str:
    """A value such that equal text means equal bits."""
    return json.dumps(value, sort_keys=True, default=repr)


def _shown(place: str, then: Any, now: Any) -> str:
    both = [
        _text(value) if isinstance(value, str | int | float | None) else "another" for value in (then, now)
    ]
    return f"{place}: {both[0]} recorded, {both[1]} now" if max(map(len, both)) < 80 else place


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
