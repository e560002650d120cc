"""Finding and reading runs on the disk; nothing is written, no plugin is imported.

A run that cannot be read is an entry with the reason, so that one damaged file does not hide the others.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from trainctl.config.values import parse_values, read_values
from trainctl.errors import ConfigError, TrainctlError, storage_error
from trainctl.runs import files
from trainctl.runs.bucket import is_url
from trainctl.runs.directory import find
from trainctl.runs.machine import process_exists
from trainctl.runs.metrics_file import newest, training_seconds
from trainctl.runs.record import read_record
from trainctl.sweep import ledger

State = Literal["done", "failed", "interrupted", "terminated", "running", "waiting", "unreadable"]
_RECORDED_STATES = ("done", "failed", "interrupted", "terminated", "running")
# Seconds without a write after which a run on another machine counts as interrupted.
_NEW = 60.0


@dataclass(frozen=True, order=True)
class Monitor:
    """The value that decides what is best, such as ``val/accuracy``."""

    name: str
    lower_is_better: bool


@dataclass(frozen=True)
class Entry:
    """A run, or a job of a sweep that has none yet.

    Attributes:
        state: ``unreadable`` where a file of it is damaged or foreign.
        name: the user's name for it.
        settings: its config, flat.
        exit_code, reason: how it ended, or why it cannot be read.
        monitor, value: the monitored value at its best; NaN where none was finite, None where there was none.
        step, epoch: its progress.
        parameters: of its model.
        seconds: from its start to its end, a pause included where it was resumed.
        training_seconds: the part spent in training steps, where it was evaluated after every epoch.
        resumed, changed: whether it was resumed, and whether with other settings.
        scaled: whether its loss is one of scaled targets.
        error: what reading it raised.
    """

    directory: Path
    state: State
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    reason: str = ""
    monitor: Monitor | None = None
    value: float | None = None
    step: int | None = None
    epoch: int | None = None
    parameters: int | None = None
    seconds: float | None = None
    training_seconds: float | None = None
    resumed: bool = False
    changed: bool = False
    ended: str = ""
    scaled: bool = False
    error: TrainctlError | None = None

    @property
    def has_curves(self) -> bool:
        """Whether ``metrics.jsonl`` may be read: not where a file of the run is damaged or foreign."""
        path = self.directory / "metrics.jsonl"
        return self.state != "unreadable" and path.is_file() and not path.is_symlink()


def gather(places: Iterable[str | Path]) -> list[Entry]:
    """The runs in ``places``, each once: run directories, ``last``, names, sweeps, folders of these, or URLs
    of mirrored runs.

    Raises ConfigError for a place without a run, StorageError for one that may not be read, and the first
    error where no run can be read.
    """
    entries: dict[Path, Entry] = {}
    for place in places:
        found = list(_at(place))
        if not found:
            raise ConfigError(f"{place}: there is no run here", "give run directories, or a sweep's")
        for entry in found:
            entries.setdefault(entry.directory, entry)
    errors = [entry.error for entry in entries.values() if entry.error is not None]
    if errors and len(errors) == len(entries):
        raise errors[0]
    return list(entries.values())


def _at(place: str | Path) -> Iterator[Entry]:
    if is_url(place):
        # Only here: it imports torch, which a comparison of what is on the disk does without.
        from trainctl.checkpoint.mirrored import located

        directory, _ = located(place, checkpoints=False)
        yield from (replace(entry, name=entry.name or str(place)) for entry in _below(directory))
        return
    if Path(place).is_file():
        raise ConfigError(f"{place}: is a file", "give the directory of a run or of a sweep")
    # A folder of runs is meant, though a run may have its name.
    inside = list(_below(Path(place).resolve())) if Path(place).is_dir() else []
    yield from inside or _below(find(place))


def _below(directory: Path) -> Iterator[Entry]:
    """Links to folders are not followed: ``outputs/latest`` is a run that is found anyway."""
    try:
        with os.scandir(directory) as found:
            inside = {item.name: item for item in found}
    except OSError as error:
        raise storage_error(error, "reading") from error
    if "run.json" in inside:
        yield read(directory)
        return
    if {"config.yaml", "metrics.jsonl"} <= set(inside):
        yield _unreadable(directory, ConfigError(f"{directory / 'run.json'} is missing"))
        return
    known: set[str] = set()
    if "sweep.json" in inside:
        for entry in _jobs(directory):
            known.add(entry.directory.name)
            yield entry
        # The leftovers of an earlier attempt of a job are not a run.
        known |= {name for name in inside if name.partition(".attempt-")[0] in known}
    for name in sorted(inside, key=_natural):
        if name not in known and not name.startswith(".") and inside[name].is_dir(follow_symlinks=False):
            yield from _below(directory / name)


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts job 10 after job 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _jobs(directory: Path) -> Iterator[Entry]:
    try:
        yield from map(_job, ledger.Ledger(directory).rows())
    except TrainctlError as error:
        yield _unreadable(directory, error)


def _job(row: ledger.Entry) -> Entry:
    """A job as its run records it, unless the ledger knows of a later state."""
    directory = row.directory
    state: State = row.row.state
    if (directory / "run.json").is_file():
        entry = read(directory)
        if entry.state in (state, "unreadable", "terminated") or state == "done":
            once = row.row.attempts == 1 and row.row.seconds is not None
            return replace(entry, seconds=row.row.seconds) if once else entry
    reason = (row.row.reason or "").partition("\n")[0]
    try:
        text = row.job.files.get("config.yaml", "")
        settings = parse_values(text.encode(), f"the config of job {row.job.number}") if text else {}
    except TrainctlError as error:
        return _unreadable(directory, error)
    if state == "done":
        state, reason = "unreadable", "the job was done, but its run directory is missing"
    elif state == "waiting" and reason:
        state = "unreadable"
    return Entry(
        directory,
        state,
        _text(settings.get("name")),
        settings,
        row.row.exit_code,
        reason,
        step=row.row.step,
        seconds=row.row.seconds,
    )


def _unreadable(directory: Path, error: TrainctlError) -> Entry:
    reason = error.problems[0].message.partition("\n")[0]
    return Entry(directory, "unreadable", exit_code=error.exit_code, reason=reason, error=error)


def read(directory: Path) -> Entry:
    """The run in ``directory``."""
    try:
        return _read(directory)
    except TrainctlError as error:
        return _unreadable(directory, error)
    except OSError as error:
        return _unreadable(directory, storage_error(error, "reading the run"))


def _read(directory: Path) -> Entry:
    record = read_record(directory)
    status, reason = record.get("status"), record.get("reason")
    if status not in _RECORDED_STATES:
        raise ConfigError(f"{directory / 'run.json'} is not valid: status is damaged")
    state: State = status
    # A run that failed before its first step has stored no settings.
    path = directory / "config.yaml"
    settings = read_values(path) if state == "done" or path.is_file() else {}
    monitor = _monitor(record)
    # While a run trains, and where it was killed, its record is older than its metrics.
    last, best = ({}, {}) if state == "running" else (_object(record, "last"), _object(record, "best"))
    metrics = directory / "metrics.jsonl"
    seconds = _between(record.get("started"), record.get("ended"))
    if state == "running" and not _alive(directory):
        state, reason = "interrupted", "no process is training in it"
    if not last and state != "failed":
        last = newest(metrics)
    return Entry(
        directory,
        state,
        _text(record.get("name")),
        settings,
        _whole(record.get("exit_code")),
        _text(reason).partition("\n")[0],
        monitor,
        None if monitor is None else _value(monitor.name, best, last),
        _whole(last.get("step")),
        _whole(last.get("epoch")),
        _whole(record.get("parameters")),
        seconds,
        training_seconds(metrics, settings),
        isinstance(record.get("resumed"), Mapping),
        (directory / "config.history.yaml").is_file(),
        _text(record.get("ended")),
        isinstance(record.get("target_scale"), Mapping),
    )


def _monitor(record: Mapping[str, Any]) -> Monitor | None:
    """The recorded monitor; None before a run is built."""
    name, lower = (_object(record, "monitor").get(key) for key in ("name", "lower_is_better"))
    return Monitor(name, lower) if isinstance(name, str) and isinstance(lower, bool) else None


def _value(name: str, best: Mapping[str, Any], last: Mapping[str, Any]) -> float | None:
    value = best.get(name)
    if isinstance(value, int | float) and type(value) is not bool and math.isfinite(value):
        return float(value)
    # No value was ever the best: NaN is text in JSON.
    return math.nan if isinstance(last.get(name), str) else None


def _object(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _between(started: Any, ended: Any) -> float | None:
    try:
        return (datetime.fromisoformat(ended) - datetime.fromisoformat(started)).total_seconds()
    except (TypeError, ValueError):
        return None


def _alive(directory: Path) -> bool:
    """Whether the process that the lock of ``directory`` names still exists.

    The lock is not taken, even for a moment: that could fail a run that is just starting.
    """
    lock = directory / ".lock"
    try:
        holder = re.fullmatch(r"process (\d{1,10}) on (.*)", files.read(lock).decode("utf-8", "replace"))
    except OSError:
        holder = None
    if holder is None or holder[2] != platform.node():
        return time.time() - max(map(_written, directory.iterdir())) < _NEW
    return process_exists(int(holder[1]))


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone meanwhile
        return 0.0
