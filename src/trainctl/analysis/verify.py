"""verify: train segments of a run again from its checkpoints and compare with what it recorded."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from torch import Tensor

from trainctl.analysis.differences import compare, difference
from trainctl.checkpoint.format import CheckpointData, read_checkpoint
from trainctl.checkpoint.mirrored import located
from trainctl.checkpoint.retention import read_chosen
from trainctl.checkpoint.shards import save_together
from trainctl.config.config_diff import Change
from trainctl.config.settings import Config, Fsdp
from trainctl.config.stored_config import ConfigVersion, version_at
from trainctl.data.fingerprint import described_data
from trainctl.distributed.group import Group
from trainctl.distributed.launch import Ranks
from trainctl.errors import CheckpointError, ConfigError, NotFiniteError, RankError, TrainctlError
from trainctl.registry import COMPONENTS
from trainctl.runs.metrics_file import Recorded
from trainctl.runs.record import read_record
from trainctl.training import resume as resuming
from trainctl.training import runtime
from trainctl.training.agreed_control import obey_at
from trainctl.training.build import build
from trainctl.training.devices import keeper
from trainctl.training.run import Hook, Run
from trainctl.training.together import begin_at, message_of, told

# What writes a run down: trained again, it goes without.
_DETACHED = ("metrics_log", "checkpoints")


class Kept(NamedTuple):
    """A whole checkpoint. ``evaluated`` is the step of the last evaluation before it was taken."""

    path: Path
    step: int
    evaluated: int


@dataclass(frozen=True)
class Segment:
    """Steps to train again, from ``start`` to ``end``.

    Attributes:
        version: the settings they were trained with.
        devices: how many trained them.
        checkpoint: where the segment starts; None is the beginning of the run.
        marks: later checkpoints of the same settings, to compare with on the way.
        changes: what differs from the settings of ``checkpoint``.
        reason: why the segment cannot be trained again; empty where it can.
        newest: the newest checkpoint, which says how the run takes its targets.
    """

    start: int
    end: int
    version: ConfigVersion
    devices: int
    checkpoint: Kept | None
    marks: tuple[Kept, ...]
    changes: tuple[Change, ...]
    reason: str
    newest: Kept


def find_checkpoints(folder: Path) -> tuple[list[Kept], list[str]]:
    """The whole checkpoints, oldest first, and what is wrong with the others.

    Raises CheckpointError (exit 4) without a whole one, UnsafeInputError as ``read_checkpoint``.
    """
    kept, damaged = [], []
    for path in sorted(folder.glob("step-*")):
        try:
            state = read_checkpoint(path).state
            kept.append(Kept(path, int(state["step"]), int(state["evaluated"])))
        except CheckpointError as error:
            damaged.append(str(error))
        except (KeyError, ValueError, TypeError) as error:
            damaged.append(f"{path} lacks {error}")
    if not kept:
        found = f"no usable checkpoint: {'; '.join(damaged)}" if damaged else "no checkpoint"
        raise CheckpointError(f"{folder} has {found}", "nothing can be verified without one")
    return sorted(kept, key=lambda each: each.step), damaged


def plan(
    kept: Sequence[Kept],
    recorded: Recorded,
    versions: Sequence[ConfigVersion],
    limit: int,
    record: Mapping[str, Any],
) -> list[Segment]:
    """Segments from the beginning and from each checkpoint, to the next one or a change of the settings.

    Each is at most ``limit`` steps. A loop that cannot resume is trained from the beginning only, past the
    checkpoints on its way.
    """
    last = max([*recorded.steps, kept[-1].step])
    resumes = getattr(COMPONENTS["loop"].load(versions[-1].config.loop.name), "resumes", True)
    found: list[Segment] = []
    for start in (None, *(kept if resumes else ())):
        step = 0 if start is None else start.step
        version = version_at(versions, step + 1)
        until = last if version.until is None else min(version.until, last)
        marks = tuple(each for each in kept if step < each.step <= until)
        end = max(step, min(step + limit, until, *(each.step for each in marks[:1] if resumes)))
        unevaluated = start is not None and start.evaluated < step and step in recorded.evaluations
        if end > step or unevaluated:
            changes = () if start is None else tuple(version.changes(version_at(versions, step)))
            reason = _no_beginning(version.config.init_from) if start is None else ""
            devices = _devices(version.config, record)
            reason = reason or _too_few(devices, version.config, record)
            found.append(Segment(step, end, version, devices, start, marks, changes, reason, kept[-1]))
    for step in {version.until for version in versions if version.until is not None and version.until < last}:
        if all(each.step != step for each in kept):
            end = min((each.step for each in kept if each.step > step), default=last)
            reason = f"the checkpoint of step {step}, where the settings changed, was not kept"
            found.append(Segment(step, end, version_at(versions, end), 1, None, (), (), reason, kept[-1]))
    return sorted(found, key=lambda each: (each.start, each.end))


def _devices(config: Config, record: Mapping[str, Any]) -> int:
    """How many devices trained with ``config``; of ``devices=auto`` the record has the number."""
    ranks = record.get("ranks") or ()
    return max(1, len(ranks)) if config.devices == "auto" else config.devices


def _too_few(devices: int, config: Config, record: Mapping[str, Any]) -> str:
    """Why this machine cannot train on so many devices again; empty where it can."""
    if devices == 1 or not str((record.get("environment") or {}).get("device")).startswith("cuda"):
        return ""
    try:
        here = runtime.choose_device(config.device).type
    except (ConfigError, RuntimeError):
        return ""
    if here != "cuda" or (found := runtime.count_devices("cuda")) >= devices:
        return ""
    return f"trained on {devices} GPUs, and this machine has {found}: verify it where there are as many"


def _no_beginning(init_from: str | None) -> str:
    """Why a run that started from another's weights cannot be started again; empty where it can."""
    if init_from == "last":
        return "init_from=last named the newest run of that time"
    try:
        if init_from is not None:
            directory, _ = located(init_from)
            read_chosen(directory, read_record(directory))
    except TrainctlError as error:
        return f"init_from: {error}"
    return ""


def recorded_config(version: ConfigVersion, record: Mapping[str, Any]) -> Config:
    """The settings of ``version`` with the recorded number of threads and, where it exists, device."""
    config, environment = version.config, record.get("environment") or {}
    recorded = str(environment.get("device") or "auto").partition(" ")[0]
    if config.devices != 1:
        recorded = recorded.partition(":")[0]  # each process takes its own
    device, threads = recorded if config.device == "auto" else config.device, config.threads
    try:
        runtime.choose_device(device)
    except (ConfigError, RuntimeError):  # not there, or no device at all
        device = "auto"
    if threads == "auto":
        threads = version.threads or environment.get("threads") or threads
    return replace(config, device=device, threads=threads)


class _EndedError(TrainctlError):
    """Ends training at the end of the segment (without a message), or at the first difference."""


class Checker(Hook):
    """Trains a segment again and compares it with what was recorded.

    Attributes:
        steps, evaluations: how many were the same.
        difference: the first difference; None where everything is the same.
    """

    def __init__(
        self, segment: Segment, recorded: Recorded, record: Mapping[str, Any], tolerance: float
    ) -> None:
        self._segment, self._recorded, self._tolerance = segment, recorded, tolerance
        self._begins = segment.checkpoint if not segment.changes else None
        self._marks = {mark.step: mark for mark in (self._begins, *segment.marks) if mark is not None}
        self._awaited = {step for step in recorded.evaluations if segment.start < step <= segment.end}
        self.steps = self.evaluations = 0
        self.difference = self._train(record)
        if self.difference is None and self._awaited:
            self.difference = f"step {min(self._awaited)}: evaluation recorded, not made now"

    def _train(self, record: Mapping[str, Any]) -> str | None:
        config, start = recorded_config(self._segment.version, record), self._segment.checkpoint
        if start is not None:
            config = replace(config, init_from=None)  # its weights are in the checkpoint
        content = None if start is None else read_checkpoint(start.path)
        stored = described_data((content or read_checkpoint(self._segment.newest.path)).state)
        with (
            self._ranks(config, stored) as self._group,
            contextlib.closing(build(config, stored=stored, group=self._group)) as self._built,
        ):
            run = self._built.run
            if self._group is not None:
                obey_at(run, self._looks)
                if (guard := run.hook("guard")) is not None:
                    guard.keep = keeper(config, self._group, None)
            try:
                with contextlib.nullcontext() if start is None else resuming.blamed_on_checkpoint(start.path):
                    self._restore(content)
                    run.attach([self])
                    if start is not None:
                        run.save()
                    self._built.fit(run)
            except _EndedError as ended:
                return str(ended) or None
            except NotFiniteError as error:
                return f"step {run.state.step + 1}: {error}"
            if run.state.step < self._segment.end:
                why = run.state.stop or "it is the last one"
                return f"training ends at step {run.state.step}, not {self._segment.end}: {why}"
        return None

    @property
    def _looks(self) -> list[int]:
        return [*self._marks, self._segment.end]

    @contextlib.contextmanager
    def _ranks(self, config: Config, stored: Mapping[str, Any]) -> Iterator[Group | None]:
        """As many processes as trained it, which write into a folder of their own; None for one device."""
        segment, start = self._segment, self._segment.checkpoint
        if segment.devices == 1:
            yield None
            return
        begins = None if start is None else begin_at(start.path, segment.changes)
        with TemporaryDirectory(prefix="trainctl-verify-") as folder:
            self._folder = Path(folder)
            told_them = message_of(
                config, segment.version.text, self._folder, begins, stored=stored, looks=self._looks
            )
            try:
                with Ranks(segment.devices, self._folder) as ranks, told(ranks, told_them) as group:
                    yield group
            except RankError as error:
                failed = RankError(
                    f"trained again on {segment.devices} devices: {error}", "the run itself is as it was"
                )
                failed.exit_code = error.exit_code
                raise failed from error

    def _restore(self, start: CheckpointData | None) -> None:
        changes, built = self._segment.changes, self._built
        known = [] if start is None or changes else [start]
        known += [read_checkpoint(mark.path) for mark in self._segment.marks[:1]]
        for each in known:
            if found := resuming.data_changes(built, each):
                raise _EndedError(f"data: {'; '.join(found)}")
        if start is not None and changes:
            resuming.resume(built, start, changes, detached=_DETACHED)
        elif start is not None:
            resuming.resume(built, start, detached=_DETACHED)

    def step(self, run: Run, loss: Tensor) -> None:
        step, mark = run.state.step, self._marks.get(run.state.step)
        if step > self._segment.end:
            self._end(run)
            return
        now = {**run.state.where, "train/loss": loss.item(), "lr": run.state.lr}
        self._compare_row(run, self._recorded.steps.get(step), now, "loss")
        self.steps += 1
        if mark is not None and mark.evaluated < step:
            run.control.save()
        evaluates = step in self._awaited or (mark is not None and mark.evaluated == step)
        if step == self._segment.end and not evaluates:
            self._end(run)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        step, mark = run.state.step, self._marks.get(run.state.step)
        self._awaited.discard(step)
        if values:
            now = {**run.state.where, **values}
            self._compare_row(run, self._recorded.evaluations.get(step), now, "evaluation")
            self.evaluations += 1
        if mark is not None and mark.evaluated == step:
            run.control.save()
        if step >= self._segment.end:
            self._end(run)

    def save(self, run: Run) -> None:
        """Compare with the checkpoint that was saved here."""
        mark = self._marks.get(run.state.step)
        if self._group is not None and isinstance(self._segment.version.config.strategy, Fsdp):
            if not self._group.first(mark is not None):
                return
            content = self._built.snapshot(copied=False)
            now = read_checkpoint(save_together(self._folder / "checkpoints", content, 0, self._group.gather))
        else:
            now = self._built.snapshot()
        if mark is not None:
            self._compare_checkpoint(mark, now)

    @staticmethod
    def _end(run: Run, difference: str = "") -> None:
        run.control.stop("verified", _EndedError(difference))

    def _compare_row(
        self, run: Run, then: Mapping[str, Any] | None, now: Mapping[str, Any], what: str
    ) -> None:
        if then is None:
            self._end(run, f"step {now['step']}: {what} not recorded")
            return
        # JSON has no NaN and no infinity.
        written = {key: value if math.isfinite(value) else str(value) for key, value in now.items()}
        then = {key: value for key, value in then.items() if key != "samples_per_second"}
        if (found := difference(then, written, self._tolerance)) is not None:
            self._end(run, f"step {now['step']}: {found}")

    def _compare_checkpoint(self, mark: Kept, now: CheckpointData) -> None:
        restored = mark is self._begins
        what, tolerance = ("not restored as stored: ", 0.0) if restored else ("", self._tolerance)
        if (found := compare(read_checkpoint(mark.path), now, tolerance)) is not None:
            raise _EndedError(f"step {mark.step}: {what}{found}")
