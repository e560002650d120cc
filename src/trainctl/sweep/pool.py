"""The jobs of a sweep in warm worker processes. No torch in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from trainctl.errors import InterruptedRunError, TerminatedRunError
from trainctl.runs.record import now
from trainctl.sweep.ledger import Job, Ledger, here
from trainctl.sweep.worker_pool import Worker, WorkerPool, start_process
from trainctl.sweep.worker_slots import WorkerSlots
from trainctl.training.interrupts import TERMINATING, handled
from trainctl.training.request import Draw

_LISTEN = 0.1
_KILL_AFTER = 30.0
"""Seconds that workers have to save their runs after the sweep was told to stop."""


class JobPool(WorkerPool):
    """Runs jobs in worker processes. An order is a list of job numbers that train together.

    Args:
        command: the command line, for ``run.json``.
        draw: draws the pictures of a job; a function that can be pickled.
        trust_plugins: import plugin files that have changed.
        fail_fast: the first failure stops all jobs.
    """

    def __init__(
        self,
        ledger: Ledger,
        slots: WorkerSlots,
        command: str,
        draw: Draw,
        *,
        trust_plugins: bool,
        fail_fast: bool,
    ) -> None:
        super().__init__(slots.count)
        self._ledger, self._slots, self._fail_fast = ledger, slots, fail_fast
        self._arguments = (str(ledger.directory), slots.threads, command, draw, trust_plugins, slots.sharing)
        self._waiting: list[list[int]] = []
        self._jobs: dict[int, Job] = {}
        self._signal: int | None = None
        self._stopped_at: float | None = None
        self._failed = False

    def run(self, orders: Iterable[list[int]], jobs: Sequence[Job], changed: Callable[[], None]) -> None:
        """Carry out every order; ``changed`` is called about ten times a second.

        Raises InterruptedRunError or TerminatedRunError when told to stop, after the running jobs were saved.
        """
        self._waiting = list(orders)
        self._jobs = {job.number: job for job in jobs}
        with handled((signal.SIGINT, *TERMINATING), self._receive):
            try:
                while self._waiting or self.busy:
                    if self._signal is not None or (self._fail_fast and self._failed):
                        self._waiting.clear()
                        self._stop()
                    self.assign()
                    self.listen(_LISTEN)
                    changed()
            finally:
                self.close(10.0 if self._signal is None else 1.0)
                for log in self._ledger.directory.glob("worker-*.log"):
                    if log.stat().st_size == 0:
                        log.unlink(missing_ok=True)
        if self._signal == signal.SIGINT:
            raise InterruptedRunError("interrupted: the running jobs are saved")
        if self._signal is not None:
            raise TerminatedRunError("terminated: the running jobs are saved")

    def _receive(self, number: int, frame: Any) -> None:
        if self._signal == signal.SIGINT == number:
            for worker in self.workers.values():
                worker.process.kill()
            raise InterruptedRunError("interrupted at once: jobs resume from their last checkpoints")
        self._signal = number

    def _stop(self) -> None:
        """Have the running jobs save and stop; kill those that take too long."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            number = signal.SIGINT if self._signal == signal.SIGINT else signal.SIGTERM
            for worker in self.busy:
                if worker.process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.process.pid, number)
        elif time.monotonic() - self._stopped_at > _KILL_AFTER:
            for worker in self.busy:
                worker.process.kill()

    def start(self, number: int, pipe: Connection) -> BaseProcess:
        return start_process(
            "trainctl.sweep.worker:work",
            *(pipe, *self._arguments),
            output=self._ledger.directory / f"worker-{number}.log",
            environment=self._slots.environment(number),
        )

    def next_order(self, number: int) -> list[int] | None:
        return self._waiting.pop(0) if self._waiting else None

    def received(self, worker: Worker, message: Any) -> None:
        self._note_failures(worker.order)
        worker.order = None

    def died(self, worker: Worker, reason: str) -> None:
        """Its jobs failed, or were interrupted if the sweep was told to stop."""
        told = self._stopped_at is not None
        for number in worker.order:
            job = self._jobs[number]
            row = self._ledger.stored(job)
            if row.state in ("running", "waiting"):
                row = replace(row, state="interrupted" if told else "failed", exit_code=1, ended=now())
                reason = "was killed before it had saved" if told else reason
                self._ledger.write(job, here(row, reason=reason))
        self._note_failures(worker.order)

    def _note_failures(self, order: Iterable[int]) -> None:
        self._failed |= any(self._ledger.stored(self._jobs[each]).state == "failed" for each in order)
