"""One job of a sweep, or several that train as one model: from the ledger's row to its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.config.stored_config import parse_config
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
from trainctl.sweep.heartbeat import Heartbeat
from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.sweep.pruning import pruning_hooks
from trainctl.training.display import Display
from trainctl.training.failures import record_stop
from trainctl.training.interrupts import Stopped
from trainctl.training.request import Draw, Request, make_request
from trainctl.training.train import train

log = logging.getLogger("trainctl")
_WAIT_FOR_LOCK = 30.0
CERTAIN_TO_FAIL_AGAIN = (2, 6)
"""Exit codes of failures that would come again from the same checkpoint: such jobs start anew."""


def run_job(
    ledger: Ledger,
    job: Job,
    command: str,
    *,
    display: Display | None = None,
    draw: Draw | None = None,
    trust_plugins: bool = False,
) -> Row:
    """Train one job, or resume it; returns its row. A failure is a row, not an error.

    Args:
        display: shows the run.
        draw: draws its pictures.

    Raises Stopped when it was told to stop; its row says ``interrupted`` then.
    """
    row = ledger.row(job)
    if row.state == "done":
        return row
    attempt = _Attempt(ledger, job, row, draw, display)
    result: dict[str, Any] | BaseException
    try:
        request = attempt.prepare(command, trust_plugins=trust_plugins)
        result = train(request, attempt.heartbeat) if request else read_record(attempt.directory)
    except (Exception, KeyboardInterrupt) as error:
        result = error
    except Stopped as error:
        result = error.error
        record_stop(attempt.directory, error)
    if (stopped := attempt.end(result)) is not None:
        raise Stopped(stopped)
    return attempt.heartbeat.row


def run_group(
    ledger: Ledger,
    jobs: Sequence[Job],
    command: str,
    *,
    draw: Draw | None = None,
    trust_plugins: bool = False,
    sharing: int = 1,
) -> None:
    """Train ``jobs`` as one stacked model, each with its own row.

    Args:
        draw: draws the pictures of each.
        sharing: how many processes share one memory.

    Raises Stopped when it was told to stop; the rows say ``interrupted`` then.
    """
    from trainctl.sweep import fused

    attempts: list[_Attempt] = []
    requests: dict[int, Request] = {}
    results: dict[int, dict[str, Any] | BaseException] = {}
    # The result of the jobs that have none of their own.
    otherwise: BaseException = RuntimeError("the group ended without a result for this job")
    try:
        for job in jobs:
            row = ledger.row(job)
            if row.state == "done":
                continue
            attempt = _Attempt(ledger, job, row, draw, every=2.0)
            attempts.append(attempt)
            try:
                request = attempt.prepare(command, trust_plugins=trust_plugins)
            except Exception as error:
                results[job.number] = error
                continue
            if request is None:
                results[job.number] = read_record(attempt.directory)
            else:
                requests[job.number] = request
        beats = [attempt.heartbeat for attempt in attempts if attempt.job.number in requests]
        if requests:
            found = fused.train_group(list(requests.values()), beats.__getitem__, sharing=sharing)
            results.update(zip(requests, found, strict=True))
    except Stopped as error:
        otherwise = error.error
    except Exception as error:
        otherwise = error
    told = [attempt.end(results.get(attempt.job.number, otherwise)) for attempt in attempts]
    if (stopped := next((error for error in told if error is not None), None)) is not None:
        raise Stopped(stopped)


class _Attempt:
    """One try at a job: its row says ``running`` until :meth:`end`."""

    def __init__(
        self,
        ledger: Ledger,
        job: Job,
        before: Row,
        draw: Draw | None,
        display: Display | None = None,
        every: float = 0.5,
    ) -> None:
        self._ledger, self.job, self._draw = ledger, job, draw
        self.directory = ledger.directory_of(job)
        self._failed_with = before.exit_code if before.state == "failed" else None
        self._started = time.monotonic()
        row = here(Row(state="running", attempts=before.attempts + 1, started=now(), step=before.step))
        ledger.write(job, row)
        self.heartbeat = Heartbeat(ledger, job, row, display, every)

    def prepare(self, command: str, *, trust_plugins: bool) -> Request | None:
        """The run to do: from the job's checkpoint, if it has a usable one and would not fail again, else
        from the start; None if the run is finished. What an earlier attempt left is renamed, not deleted."""
        job, directory = self.job, self.directory
        hooks = pruning_hooks(self._ledger, job)
        if (directory / "run.json").exists():
            _wait_for(directory)
            if self._failed_with not in CERTAIN_TO_FAIL_AGAIN:
                try:
                    request = make_request(directory, [], command=command, trust_plugins=trust_plugins)
                except (CheckpointError, ConfigError) as error:
                    log.info("job %d starts anew: %s", job.number, error)
                else:
                    return (
                        None
                        if request is None
                        else replace(request, latest=False, hooks=hooks, draw=self._draw)
                    )
        if directory.exists() and any(directory.iterdir()):
            _set_aside(directory)
        config = parse_config(job.files["config.yaml"], f"job {job.number}", lambda named: None)
        claim(directory, named=True)
        return Request(
            config, job.files, directory, job.notices, command, latest=False, hooks=hooks, draw=self._draw
        )

    def end(self, result: dict[str, Any] | BaseException) -> TrainctlError | None:
        """Write the row of a run that gave its record or an error; returns the error if the run was told to
        stop."""
        self.heartbeat.stop()
        values, stopped = _outcome(result)
        seconds = round(time.monotonic() - self._started, 3)
        self.heartbeat.row = here(self.heartbeat.row, **values, ended=now(), seconds=seconds)
        self._ledger.write(self.job, self.heartbeat.row)
        return stopped


def _outcome(result: dict[str, Any] | BaseException) -> tuple[dict[str, Any], TrainctlError | None]:
    if isinstance(result, KeyboardInterrupt):
        result = InterruptedRunError("interrupted")
    if isinstance(result, TrainctlError):
        told = result.status in ("interrupted", "terminated")
        state = "interrupted" if told else "failed"
        values = {"state": state, "exit_code": result.exit_code, "reason": str(result)}
        return values, result if told else None
    if isinstance(result, BaseException):
        log.error("a job failed", exc_info=result)
        return {"state": "failed", "exit_code": 1, "reason": f"{type(result).__name__}: {result}"}, None
    return {"state": "done", "exit_code": 0, "reason": result.get("reason")}, None


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


def _set_aside(directory: Path) -> None:
    number = 1
    while (aside := directory.with_name(f"{directory.name}.attempt-{number}")).exists():
        number += 1
    files.rename(directory, aside)
