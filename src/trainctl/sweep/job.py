"""Jobs of a sweep, one or several that train as one model: from the ledger's rows to their ends."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from trainctl.config.connections import refuse_connections
from trainctl.config.settings import Config
from trainctl.config.stored_config import parse_config
from trainctl.errors import (
    CheckpointError,
    ConfigError,
    InterruptedRunError,
    TrainctlError,
)
from trainctl.runs.directory import claim, lock, set_aside
from trainctl.runs.record import now, read_record
from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.sweep.pruning import pruning_hooks
from trainctl.sweep.same_data import with_data
from trainctl.training.display import Display, Source
from trainctl.training.failures import record_stop
from trainctl.training.interrupts import Stopped
from trainctl.training.request import Draw, Request, make_request
from trainctl.training.train import train

if TYPE_CHECKING:
    from trainctl.training.built import Built
    from trainctl.training.run import Hook

log = logging.getLogger("trainctl")
_WAIT_FOR_LOCK = 30.0
CERTAIN_TO_FAIL_AGAIN = (2, 6)
"""Exit codes of failures that would come again from the same checkpoint: such jobs start anew."""

_Result = dict[str, Any] | BaseException


def run_jobs(
    ledger: Ledger,
    jobs: Sequence[Job],
    command: str,
    *,
    display: Display | None = None,
    draw: Draw | None = None,
    trust_plugins: bool = False,
    sharing: int = 1,
) -> None:
    """Train or resume ``jobs`` that are not done: one by itself, several as one stacked model.

    What became of each is its row, a failure as well.

    Args:
        display: shows the run of a single job.
        draw: draws the pictures of each.
        sharing: how many processes share one memory.

    Raises Stopped when told to stop; the rows say ``interrupted`` then.
    """
    attempts: list[_Attempt] = []
    requests: list[Request] = []
    running: list[_Attempt] = []
    results: dict[_Attempt, _Result] = {}
    # The result of the jobs that have none of their own.
    otherwise: BaseException = RuntimeError("the group ended without a result for this job")
    try:
        for job in jobs:
            if (row := ledger.row(job)).state == "done":
                continue
            attempts.append(attempt := _Attempt(ledger, job, row, display, 0.5 if len(jobs) == 1 else 2.0))
            try:
                request = attempt.prepare(command, draw, trust_plugins)
            except Exception as error:
                results[attempt] = error
                continue
            if request is None:
                results[attempt] = read_record(attempt.directory)
            else:
                requests.append(request)
                running.append(attempt)
        results.update(zip(running, _train(requests, running, len(jobs) > 1, sharing), strict=True))
    except Stopped as error:
        otherwise = error.error
        for attempt in attempts:
            record_stop(attempt.directory, error)
    except (Exception, KeyboardInterrupt) as error:
        otherwise = error
    told = [attempt.end(results.get(attempt, otherwise)) for attempt in attempts]
    if (stopped := next((error for error in told if error is not None), None)) is not None:
        raise Stopped(stopped)


def _train(
    requests: Sequence[Request], running: Sequence[_Attempt], grouped: bool, sharing: int
) -> Sequence[_Result]:
    if not requests:
        return []
    displays = [cast(Display, attempt.heartbeat) for attempt in running]
    if not grouped:
        return [train(requests[0], displays[0])]
    from trainctl.sweep import fused

    return fused.train_group(requests, displays.__getitem__, sharing=sharing)


class _Attempt:
    """One try at a job: until :meth:`end` its row says ``running``, and the lock of a run that it resumes is
    held."""

    def __init__(self, ledger: Ledger, job: Job, before: Row, display: Display | None, every: float) -> None:
        self._ledger, self._job = ledger, job
        self.directory = ledger.directory_of(job)
        self._failed_with = before.exit_code if before.state == "failed" else None
        self._started = time.monotonic()
        self._held = contextlib.ExitStack()  # the lock of a run that is resumed
        row = here(Row(state="running", attempts=before.attempts + 1, started=now(), step=before.step))
        ledger.write(job, row)
        self.heartbeat = Heartbeat(ledger, job, row, display, every)

    def prepare(self, command: str, draw: Draw | None, trust_plugins: bool) -> Request | None:
        """The run to do: from the job's checkpoint, if it has a usable one and would not fail again, else
        from the start; None if the run is finished. What an earlier attempt left is renamed, not deleted."""
        job, directory = self._job, self.directory
        with contextlib.ExitStack() as held:
            if (directory / "run.json").exists():
                # The workers of a sweep that was killed still save.
                held.enter_context(lock(directory, wait=_WAIT_FOR_LOCK))
                if self._failed_with not in CERTAIN_TO_FAIL_AGAIN:
                    try:
                        request = make_request(directory, [], command=command, trust_plugins=trust_plugins)
                        self._held = held.pop_all()
                        if request is None:
                            return None
                        hooks = self._hooks(request.config)
                        return replace(request, latest=False, hooks=hooks, draw=draw)
                    except (CheckpointError, ConfigError) as error:
                        log.info("job %d starts anew: %s", job.number, error)
            if directory.exists() and any(directory.iterdir()):
                set_aside(directory)
        config = parse_config(
            job.files["config.yaml"], f"job {job.number}", lambda named: None, self._ledger.directory
        )
        refuse_connections(config, directory, trust_plugins=trust_plugins)
        claim(directory, named=True)
        hooks = self._hooks(config)
        return Request(
            config, job.files, directory, job.notices, command, latest=False, hooks=hooks, draw=draw
        )

    def _hooks(self, config: Config) -> Callable[[Built], Sequence[Hook]]:
        """Makes the hooks of the job's run, once its data is known to be that of the other jobs."""

        def make(built: Built) -> Sequence[Hook]:
            row = with_data(self._ledger, self._job, self.heartbeat.row, config, built)
            self.heartbeat.row = row
            return pruning_hooks(self._ledger, self._job)(built)

        return make

    def end(self, result: _Result) -> TrainctlError | None:
        """Write the row of a run that gave its record or an error; returns the error if the run was told to
        stop."""
        self.heartbeat.stop()
        stopped = None
        if isinstance(result, KeyboardInterrupt):
            result = InterruptedRunError("interrupted")
        if isinstance(result, TrainctlError):
            stopped = result if result.status in ("interrupted", "terminated") else None
            state = "interrupted" if stopped else "failed"
            values = {"state": state, "exit_code": result.exit_code, "reason": str(result)}
        elif isinstance(result, BaseException):
            log.error("a job failed", exc_info=result)
            values = {"state": "failed", "exit_code": 1, "reason": f"{type(result).__name__}: {result}"}
        else:
            values = {"state": "done", "exit_code": 0, "reason": result.get("reason")}
        seconds = round(time.monotonic() - self._started, 3)
        with self._held:
            self._ledger.write(self._job, here(self.heartbeat.row, **values, ended=now(), seconds=seconds))
        return stopped


class Heartbeat:
    """A display that writes the progress of a job into its row, in a thread; it passes everything on.

    Args:
        shown: the display that a person sees, if any.
        every: seconds between two heartbeats.
    """

    def __init__(self, ledger: Ledger, job: Job, row: Row, shown: Display | None, every: float) -> None:
        self._shown = shown or Display()
        self._ledger, self._job, self.row = ledger, job, row
        self._source: Source | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(every,), name="heartbeat", daemon=True)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shown, name)

    def live(self, source: Source) -> None:
        self._source = source
        self._shown.live(source)

    def _beat(self, every: float) -> None:
        while not self._ended.wait(every):
            self._write()

    def _write(self) -> None:
        values: dict[str, Any] = {}
        if self._source is not None:
            # A source that has not started has no progress yet.
            with contextlib.suppress(AttributeError):
                progress = self._source.progress()
                values = {"step": progress.step, "total_steps": progress.total_steps}
                if math.isfinite(progress.smoothed):
                    values["loss"] = progress.smoothed
        self.row = here(self.row, **values)
        with contextlib.suppress(OSError):  # a full disk ends the run, not its heartbeat
            self._ledger.beat(self._job, self.row)

    def stop(self) -> None:
        """Write the last heartbeat."""
        self._ended.set()
        self._thread.join()
        if self._source is not None:
            self._write()
