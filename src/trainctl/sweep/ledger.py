"""The ledger of a sweep: its jobs and the state of each. No torch, no Hydra.

A sweep's directory holds ``sweep.json`` (the command), ``jobs.jsonl`` (a line a job, appended and synced
before the first of them starts), ``ledger/<number>.json`` (the job's state, written only by the process that
runs it) and a run directory ``<number>`` a job. Every file is replaced as a whole: a reader, or a process
that comes after a kill, sees the row before or the row after.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from trainctl.errors import ConfigError, DirectoryTakenError, TrainctlError, UnsafeInputError
from trainctl.runs import files, strict_json
from trainctl.runs.directory import lock
from trainctl.runs.machine import process_exists
from trainctl.runs.record import now, read_record, usable_plugins

SWEEP_VERSION = 1
STORED_FILES = ("config.yaml", "overrides.yaml")
"""The files of its config that a job may bring."""
SILENT_AFTER = 60.0
"""Seconds without a heartbeat after which a job on another machine counts as interrupted."""

_NO_LINKS = "replace the link by what it leads to, if you trust it"

JobState = Literal["waiting", "running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        key: hash of everything that determines its result.
        number: from 0; its run directory has this name.
        words: its overrides.
        label: the overrides that the other jobs do not have, for people.
        files: the files that its run stores of its config, by name.
        notices: shown before it runs.
    """

    key: str
    number: int
    words: tuple[str, ...]
    label: str
    files: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The state of a job.

    Attributes:
        attempts: how often it was started.
        exit_code, reason: of its end.
        started, ended: UTC, ISO 8601.
        seconds: duration of the last attempt.
        host, pid, beat: the process that runs it, and its last heartbeat (seconds since 1970).
        step, total_steps, loss: its progress.
        data: digests of the settings of its data, and of the data itself.
    """

    state: JobState = "waiting"
    attempts: int = 0
    exit_code: int | None = None
    reason: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    host: str | None = None
    pid: int | None = None
    beat: float | None = None
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    data: str | None = None


@dataclass(frozen=True)
class Entry:
    """A job, its state, and its run directory, which exists once the job was started."""

    job: Job
    row: Row
    directory: Path


class Ledger:
    """The ledger in ``directory``. Raises ConfigError where there is none, StorageError from writing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.values = _read_sweep(directory)
        self._jobs: list[Job] = []
        self._read = 0  # bytes of jobs.jsonl

    @classmethod
    def begin(cls, directory: Path, **values: Any) -> Ledger:
        """The ledger of a sweep whose directory was just taken; ``values`` go into ``sweep.json``."""
        ledger = cls.__new__(cls)
        ledger.directory, ledger._jobs, ledger._read = directory, [], 0
        ledger.values = {"version": SWEEP_VERSION, "status": "running", "started": now(), **values}
        files.make_folder(directory / "ledger")
        ledger.update()
        return ledger

    def update(self, **values: Any) -> None:
        """Set keys of ``sweep.json`` and write it."""
        self.values.update(values)
        files.replace(self.directory / "sweep.json", (json.dumps(self.values, indent=2) + "\n").encode())

    def needed(self, *keys: str) -> list[Any]:
        """The values of these keys of ``sweep.json``. Raises ConfigError for one that is missing."""
        if missing := [key for key in keys if key not in self.values]:
            raise ConfigError(f"{self.directory / 'sweep.json'} is not valid: it lacks {missing[0]}")
        return [self.values[key] for key in keys]

    # ------------------------------------------------------------------- jobs

    def jobs(self) -> list[Job]:
        """All jobs, by number. A last line that a kill has cut short does not count.

        Whole lines never change: those that were read before are not read again.
        """
        for line in self._lines(self._read):
            self._jobs.append(self._parsed(line, len(self._jobs)))
            self._read += len(line) + 1
        return list(self._jobs)

    def job(self, number: int) -> Job:
        """One job, without reading the others."""
        lines = self._lines(0)
        if not 0 <= number < len(lines):
            raise ConfigError(f"{self.directory / 'jobs.jsonl'} has no job {number}")
        return self._parsed(lines[number], number)

    def _lines(self, start: int) -> list[bytes]:
        """The whole lines of the jobs from byte ``start`` on."""
        path = self.directory / "jobs.jsonl"
        return _read(path, start).split(b"\n")[:-1] if path.exists() else []

    def _parsed(self, line: bytes, number: int) -> Job:
        path = self.directory / "jobs.jsonl"
        try:
            values = strict_json.parse(line)
            values["words"], values["notices"] = tuple(values["words"]), tuple(values["notices"])
            job = Job(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is damaged in line {number + 1}: {error}") from None
        self._refuse_foreign(job, number + 1, f"{path} line {number + 1}")
        return job

    def _refuse_foreign(self, job: Job, line: int, where: str) -> None:
        """Raise UnsafeInputError for a job that no sweep has written: names in it become paths."""
        reason = None
        if type(job.number) is not int or job.number != line - 1:
            reason = f"the job's number is {job.number!r}, not {line - 1}"
        elif not isinstance(job.files, dict) or set(job.files) - set(STORED_FILES):
            named = list(job.files) if isinstance(job.files, dict) else job.files
            reason = f"a job stores {' and '.join(STORED_FILES)} only, not {named!r}"
        elif STORED_FILES[0] not in job.files:
            reason = f"its {STORED_FILES[0]} is missing"
        elif not all(map(_is_text, (job.key, job.label, *job.files.values()))):
            reason = "its key, label and files must be text"
        elif any(text.encode(errors="ignore").decode() != text for text in job.files.values()):
            reason = "its files must be text of whole characters"
        elif not all(map(_is_text, (*job.words, *job.notices))):
            reason = "its words and notices must be text"
        if reason is not None:
            raise UnsafeInputError(f"{where}: {reason}", "trainctl did not write it")
        if (directory := self.directory_of(job)).is_symlink():
            raise UnsafeInputError(f"{directory} is a link to {directory.readlink()}", _NO_LINKS)

    def add(self, jobs: Iterable[Job]) -> None:
        """Append jobs; they are on the disk when this returns."""
        path = self.directory / "jobs.jsonl"
        whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else None
        with contextlib.closing(files.Log(path, whole)) as log:
            log.write(b"".join(json.dumps(vars(job)).encode() + b"\n" for job in jobs))
            log.sync()

    def directory_of(self, job: Job) -> Path:
        """The run directory of ``job``."""
        return self.directory / str(job.number)

    # ------------------------------------------------------------------- rows

    def _path(self, job: Job) -> Path:
        return self.directory / "ledger" / f"{job.number}.json"

    def stored(self, job: Job) -> Row:
        """The row as it was last written; for a damaged one that of a waiting job, with the reason."""
        return _stored(self._path(job))

    def begun(self) -> Iterator[tuple[int, Row]]:
        """The jobs that have a row, by number, each read when it is asked for."""
        names = (path.stem for path in (self.directory / "ledger").glob("*.json"))
        for number in sorted(int(name) for name in names if name.isdecimal()):
            yield number, _stored(self.directory / "ledger" / f"{number}.json")

    def write(self, job: Job, row: Row) -> None:
        """Replace the row; it is on the disk when this returns."""
        files.replace(self._path(job), json.dumps(vars(row)).encode())

    def beat(self, job: Job, row: Row) -> None:
        """The same, not synced: a heartbeat may be lost with the power."""
        path = self._path(job)
        files.replace(path, json.dumps(vars(row)).encode(), synced=False)

    def row(self, job: Job) -> Row:
        """The row as it is now. A running job whose process is gone is interrupted; where a kill came before
        its row was written, the run's own record decides."""
        row = self.stored(job)
        if row.state in ("done", "failed") or _alive(row):
            return row
        try:
            record = read_record(self.directory_of(job))
        except TrainctlError:
            return replace(row, state="interrupted") if row.state == "running" else row
        status, last = record.get("status"), record.get("last")
        return replace(
            row,
            state=status if status in ("done", "failed") else "interrupted",
            exit_code=record.get("exit_code"),
            reason=record.get("reason"),
            step=last.get("step", row.step) if isinstance(last, dict) else row.step,
        )

    def rows(self) -> list[Entry]:
        """Every job with its current row."""
        return [Entry(job, self.row(job), self.directory_of(job)) for job in self.jobs()]


def _stored(path: Path) -> Row:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        values = strict_json.parse(files.read(path))
        row = Row(**{key: value for key, value in values.items() if key in Row.__dataclass_fields__})
        if _is_usable(row):
            return row
    return Row(reason=f"{path} is damaged" if os.path.lexists(path) else None)


def is_sweep(directory: Path) -> bool:
    """Whether ``directory`` holds a sweep."""
    return (directory / "sweep.json").is_file()


@contextlib.contextmanager
def locked_sweep(directory: Path) -> Iterator[None]:
    """Be the only process that runs the sweep in ``directory``. Raises DirectoryTakenError (exit 7)."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(directory))
        except DirectoryTakenError:
            raise DirectoryTakenError(
                f"{directory}: another process is running this sweep", "wait for it, or stop it first"
            ) from None
        yield


def here(row: Row, **values: Any) -> Row:
    """``row`` as this process writes it, now."""
    return replace(row, host=platform.node(), pid=os.getpid(), beat=time.time(), **values)


def _is_usable(row: Row) -> bool:
    """Whether every value has its type; a process has a number above 0."""
    whole = (row.attempts, row.exit_code, row.pid, row.step, row.total_steps)
    return (
        row.state in get_args(JobState)
        and all(value is None or (type(value) is int and abs(value) < 2**62) for value in whole)
        and all(value is None or type(value) in (int, float) for value in (row.seconds, row.beat, row.loss))
        # Neither NaN nor infinite.
        and all(value is None or abs(value) < 2**62 for value in (row.seconds, row.beat))
        and all(
            value is None or isinstance(value, str)
            for value in (row.reason, row.started, row.ended, row.host, row.data)
        )
        and (row.pid is None or 0 < row.pid < 2**31)
        and type(row.attempts) is int
    )


def _alive(row: Row) -> bool:
    if row.state != "running" or row.pid is None:
        return False
    if row.host == platform.node() and not process_exists(row.pid):
        return False
    # Another process may have its number by now: only a recent heartbeat counts.
    return time.time() - (row.beat or 0.0) < SILENT_AFTER


def _read(path: Path, start: int = 0) -> bytes:
    try:
        return files.read(path, 2**34, start)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} is not valid: {error.strerror}") from None


def _read_sweep(directory: Path) -> dict[str, Any]:
    path = directory / "sweep.json"
    own = [directory / name for name in ("sweep.json", "jobs.jsonl", "ledger")]
    for each in (*own, *directory.glob("worker-*.log")):
        if each.is_symlink():
            raise UnsafeInputError(f"{each} is a link to {each.readlink()}", _NO_LINKS)
    try:
        content = strict_json.parse(_read(path))
    except FileNotFoundError:
        raise ConfigError(f"{directory}: not a sweep", "give a directory that holds sweep.json") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not valid: {error}") from None
    if not isinstance(content, dict) or content.get("version") != SWEEP_VERSION:
        raise ConfigError(f"{path}: version must be {SWEEP_VERSION}")
    for key, usable in _USABLE.items():
        if key in content and not usable(content[key]):
            raise ConfigError(f"{path} is not valid: {key} is damaged")
    return content


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_search(value: Any) -> bool:
    """Whether these are the settings of a search, if any, with the entries for composing its configs."""
    return not value or (
        isinstance(value, dict)
        and all(key in value and _USABLE[key](value[key]) for key in ("folder", "config_dir", "config_name"))
    )


_USABLE: Mapping[str, Callable[[Any], bool]] = {
    "command": _is_text,
    "launcher": _is_text,
    "launcher_settings": lambda value: isinstance(value, dict),
    "words": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "plugins": usable_plugins,
    "search": _is_search,
    "folder": _is_text,
    "config_dir": _is_text_or_none,
    "config_name": _is_text_or_none,
}
