"""One job of a sweep, from what its row says to its end."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.errors import (
    CheckpointError,
    ConfigError,
    DirectoryTakenError,
    InterruptedRunError,
    TrainctlError,
)
from trainctl.runs import files
from trainctl.runs.directory import claim, lock
from trainctl.runs.record import now, read_record
from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.sweep.pruning import pruning_hooks
from trainctl.training.display import Display, Progress, Silent, Source
from trainctl.training.failures import record_stop
from trainctl.training.interrupts import Stopped
from trainctl.training.request import Request
from trainctl.training.train import train

log = logging.getLogger("trainctl")
_BEAT_EVERY = 0.5
_WAIT_FOR_LOCK = 30.0
# What a second try meets again, from the same checkpoint: those start anew.
CERTAIN_TO_FAIL_AGAIN = (2, 6)


def run_job(
    ledger: Ledger, job: Job, command: str, *, display: Display | None = None, trust_plugins: bool = False
) -> Row:
    """Train one job, or carry it on; returns what became of it. A failure is a row, not an error.

    Raises Stopped when it was told to stop; its row says ``interrupted`` then.
    """
    row = ledger.row(job)
    if row.state == "done":
        return row
    failed_with = row.exit_code if row.state == "failed" else None
    started = time.monotonic()
    row = here(Row(state="running", attempts=row.attempts + 1, started=now(), step=row.step))
    ledger.write(job, row)
    beating = Beating(ledger, job, row, display)
    result: dict[str, Any] | BaseException
    try:
        request = prepare(ledger, job, command, failed_with=failed_with, trust_plugins=trust_plugins)
        result = train(request, beating) if request else read_record(ledger.directory_of(job))
    except (Exception, KeyboardInterrupt) as error:
        result = error
    except Stopped as error:
        result = error.error
        record_stop(ledger.directory_of(job), error)
    finally:
        beating.stop()
    ended, stopped = outcome(result)
    row = here(beating.row, **ended, ended=now(), seconds=round(time.monotonic() - started, 3))
    ledger.write(job, row)
    if stopped is not None:
        raise Stopped(stopped)
    return row


def outcome(result: dict[str, Any] | BaseException) -> tuple[dict[str, Any], TrainctlError | None]:
    """What the row says of a run that gave its record or an error; the error, where it was told to stop."""
    if isinstance(result, KeyboardInterrupt):
        result = InterruptedRunError("interrupted")
    if isinstance(result, TrainctlError):
        told = result.status in ("interrupted", "terminated")
        state = "interrupted" if told else "failed"
        ended = {"state": state, "exit_code": result.exit_code, "reason": str(result)}
        return ended, result if told else None
    if isinstance(result, BaseException):
        log.error("a job failed", exc_info=result)
        return {"state": "failed", "exit_code": 1, "reason": f"{type(result).__name__}: {result}"}, None
    return {"state": "done", "exit_code": 0, "reason": result.get("reason")}, None


def prepare(
    ledger: Ledger, job: Job, command: str, *, failed_with: int | None = None, trust_plugins: bool = False
) -> Request | None:
    """What is to be trained for ``job``: from its checkpoint, if it has a usable one and going on makes
    sense, else from the start; None where it is finished.

    A directory that is started anew is set aside, not deleted.
    """
    from trainctl.cli.commands.resume import make_request
    from trainctl.config.stored_config import parse_config

    directory = ledger.directory_of(job)
    if (directory / "run.json").exists():
        _wait_for(directory)
        if failed_with not in CERTAIN_TO_FAIL_AGAIN:
            try:
                request = make_request(
                    directory, [], command=command, allow_change=False, trust_plugins=trust_plugins
                )
            except (CheckpointError, ConfigError) as error:
                log.info("job %d starts anew: %s", job.number, error)
            else:
                hooks = pruning_hooks(ledger, job)
                return None if request is None else replace(request, latest=False, hooks=hooks)
        set_aside(directory)
    elif directory.exists() and any(directory.iterdir()):
        set_aside(directory)
    config = parse_config(job.files["config.yaml"], f"job {job.number}", lambda named: None)
    claim(directory, named=True)
    hooks = pruning_hooks(ledger, job)
    return Request(config, job.files, directory, job.notices, command, latest=False, hooks=hooks)


def _wait_for(directory: Path) -> None:
    """Wait for a process that is about to end: the workers of a sweep that was killed still save."""
    until = time.monotonic() + _WAIT_FOR_LOCK
    while True:
        try:
            with lock(directory):
                return
        except DirectoryTakenError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def set_aside(directory: Path) -> None:
    """Rename what an earlier attempt left, so that the job can start anew under its name."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.attempt-{number}")).exists():
        number += 1
    files.rename(directory, aside)


class Beating:
    """A display that writes how far the job is into the ledger, from a thread of its own.

    Args:
        shown: the display that a person sees.
        every: seconds between two heartbeats.
    """

    def __init__(
        self, ledger: Ledger, job: Job, row: Row, shown: Display | None = None, every: float = _BEAT_EVERY
    ) -> None:
        self._ledger, self._job, self.row = ledger, job, row
        self._shown = shown or Silent()
        self.every = self._shown.every
        self._source: Source | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(every,), name="heartbeat", daemon=True)
        self._thread.start()

    def header(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        self._shown.header(title, rows)

    def notice(self, text: str) -> None:
        self._shown.notice(text)

    def live(self, source: Source) -> None:
        self._source = source
        self._shown.live(source)

    def step(self, progress: Progress) -> None:
        self._shown.step(progress)

    def epoch(self, progress: Progress, values: Mapping[str, float], seconds: float, *, best: bool) -> None:
        self._shown.epoch(progress, values, seconds, best=best)

    def table(self, lines: Sequence[str]) -> None:
        self._shown.table(lines)

    def closing(self, rows: Mapping[str, Mapping[str, object]], places: Sequence[tuple[str, str]]) -> None:
        self._shown.closing(rows, places)

    def close(self) -> None:
        self._shown.close()

    def _beat(self, every: float) -> None:
        while not self._ended.wait(every):
            self._write()

    def _write(self) -> None:
        values: dict[str, Any] = {}
        if self._source is not None:
            # A source that has not begun has no run to tell of yet.
            with contextlib.suppress(AttributeError):
                progress = self._source.progress()
                values = {"step": progress.step, "total_steps": progress.total_steps}
                if math.isfinite(progress.smoothed):
                    values["loss"] = progress.smoothed
        self.row = here(self.row, **values)
        with contextlib.suppress(OSError):  # a full disk ends the run, not its heartbeat
            self._ledger.beat(self._job, self.row)

    def stop(self) -> None:
        """No beat after this."""
        self._ended.set()
        self._thread.join()
        if self._source is not None:
            self._write()


@contextmanager
def locked_sweep(directory: Path) -> Iterator[None]:
    """Be the only process that runs the sweep in ``directory``. Raises DirectoryTakenError (exit 7)."""
    try:
        with lock(directory):
            yield
    except DirectoryTakenError as error:
        if str(error).startswith(str(directory) + ":"):
            raise DirectoryTakenError(
                f"{directory}: another process is running this sweep", "wait for it, or stop it first"
            ) from None
        raise
