"""A group of jobs as one stacked model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from trainctl import rundir
from trainctl.errors import TrainctlError
from trainctl.interrupts import Stopped
from trainctl.sweep.job import Beating, outcome, prepare, run_job
from trainctl.sweep.ledger import Job, Ledger, Row, here

_BEAT_EVERY = 2.0


def run_group(ledger: Ledger, jobs: Sequence[Job], command: str, *, trust_plugins: bool = False) -> list[Row]:
    """Train ``jobs`` as one stacked model; returns what became of each. Those that were begun before are
    carried on one by one, from their checkpoints.

    Raises Stopped when it was told to stop; the rows say ``interrupted`` then.
    """
    from trainctl.sweep import fused

    fresh = [job for job in jobs if not (ledger.directory_of(job) / "run.json").exists()]
    others = [job for job in jobs if job not in fresh]
    rows: dict[int, Row] = {}
    stopped: TrainctlError | None = None
    if fresh:
        started = time.monotonic()
        requests, beats = [], []
        for job in fresh:
            attempts = ledger.row(job).attempts + 1
            row = here(Row(state="running", attempts=attempts, started=rundir.now()))
            ledger.write(job, row)
            beats.append(Beating(ledger, job, row, every=_BEAT_EVERY))
            request = prepare(ledger, job, command, trust_plugins=trust_plugins)
            assert request is not None
            requests.append(request)
        results: Sequence[dict[str, Any] | BaseException]
        try:
            results = fused.train_group(requests, lambda number: beats[number])
        except Stopped as error:
            results = [error.error] * len(fresh)
        except TrainctlError as error:
            results = [error] * len(fresh)
        except Exception as error:
            results = [error] * len(fresh)
        for job, beat, result in zip(fresh, beats, results, strict=True):
            beat.stop()
            ended, told = outcome(result)
            stopped = stopped or told
            seconds = round(time.monotonic() - started, 3)
            row = here(beat.row, **ended, ended=rundir.now(), seconds=seconds)
            ledger.write(job, row)
            rows[job.number] = row
    if stopped is not None:
        raise Stopped(stopped)
    for job in others:
        rows[job.number] = run_job(ledger, job, command, trust_plugins=trust_plugins)
    return [rows[job.number] for job in jobs]
