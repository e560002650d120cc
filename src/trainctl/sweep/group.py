"""A group of jobs as one stacked model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainctl.errors import TrainctlError
from trainctl.runs.record import now, read_record
from trainctl.sweep.job import Beating, outcome, prepare
from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.training.interrupts import Stopped

if TYPE_CHECKING:
    from trainctl.training.request import Request

_BEAT_EVERY = 2.0


def run_group(
    ledger: Ledger, jobs: Sequence[Job], command: str, *, trust_plugins: bool = False, sharing: int = 1
) -> None:
    """Train ``jobs`` as one stacked model; their rows say what became of each.

    Those that were begun before and stand at the same step go on together.

    Args:
        sharing: how many processes train on the same memory.

    Raises Stopped when it was told to stop; the rows say ``interrupted`` then.
    """
    from trainctl.sweep import fused

    started = time.monotonic()
    beats: dict[int, Beating] = {}
    requests: dict[int, Request] = {}
    results: dict[int, dict[str, Any] | BaseException] = {}
    # Of those that have no result of their own.
    ended_all: BaseException = RuntimeError("its group ended without a word of it")
    try:
        for job in jobs:
            before = ledger.row(job)
            if before.state == "done":
                continue
            failed_with = before.exit_code if before.state == "failed" else None
            row = Row(state="running", attempts=before.attempts + 1, started=now(), step=before.step)
            ledger.write(job, here(row))
            beats[job.number] = Beating(ledger, job, here(row), every=_BEAT_EVERY)
            try:
                request = prepare(ledger, job, command, failed_with=failed_with, trust_plugins=trust_plugins)
            except Exception as error:
                results[job.number] = error
                continue
            if request is None:
                results[job.number] = read_record(ledger.directory_of(job))
            else:
                requests[job.number] = request
        if requests:
            numbers = list(requests)
            found = fused.train_group(
                list(requests.values()), lambda number: beats[numbers[number]], sharing=sharing
            )
            results.update(zip(numbers, found, strict=True))
    except Stopped as error:
        ended_all = error.error
    except Exception as error:
        ended_all = error

    stopped: TrainctlError | None = None
    for job in jobs:
        if (beat := beats.get(job.number)) is None:
            continue
        beat.stop()
        ended, told = outcome(results.get(job.number, ended_all))
        stopped = stopped or told
        seconds = round(time.monotonic() - started, 3)
        ledger.write(job, here(beat.row, **ended, ended=now(), seconds=seconds))
    if stopped is not None:
        raise Stopped(stopped)
