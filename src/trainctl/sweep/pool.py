"""The jobs of a sweep, carried out by a pool of workers. No torch in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from trainctl.errors import InterruptedRunError, TerminatedRunError
from trainctl.runs.record import now
from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.sweep.worker_pool import Worker, WorkerPool, start_process
from trainctl.sweep.worker_slots import WorkerSlots
from trainctl.training.interrupts import TERMINATING, handled
from trainctl.training.request import Draw

_LISTEN = 0.1
_KILL_AFTER = 30.0
"""Seconds that workers have to save their runs after the sweep was told to stop."""


class SweepPool(ABC):
    """Carries out orders, on this machine or on others: lists of job numbers that train together.

    Args:
        fail_fast: the first failure stops all jobs.
    """

    def __init__(self, ledger: Ledger, *, fail_fast: bool) -> None:
        self._ledger, self._fail_fast = ledger, fail_fast
        self._waiting: deque[list[int]] = deque()
        self._jobs: dict[int, Job] = {}
        self._before: dict[int, Row] = {}
        self._taken: set[int] = set()
        self._signal: int | None = None
        self._stopped_at: float | None = None
        self._failed = False

    def run(self, orders: Iterable[list[int]], jobs: Sequence[Job], changed: Callable[[], None]) -> None:
        """Carry out every order; ``changed`` is called about ten times a second.

        Raises InterruptedRunError or TerminatedRunError when told to stop, after the running jobs were saved.
        """
        self._waiting = deque(orders)
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

    def row(self, job: Job) -> Row:
        """The row of a job as it is now. That of one not started is read once: of ten thousand, few run."""
        if job.number not in self._before:
            self._before[job.number] = self._ledger.row(job)
        return self._ledger.row(job) if job.number in self._taken else self._before[job.number]

    def take(self) -> list[int] | None:
        """The next order; None if there is none."""
        if not self._waiting:
            return None
        order = self._waiting.popleft()
        self._taken.update(order)
        return order

    def _receive(self, number: int, frame: Any) -> None:
        if self._signal == signal.SIGINT == number:
            self.kill()
            raise InterruptedRunError("interrupted at once: jobs resume from their last checkpoints")
        self._signal = number

    def _stop(self) -> None:
        """Have the running jobs save and stop; kill those that take too long."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self.tell(signal.SIGINT if self._signal == signal.SIGINT else signal.SIGTERM)
        elif time.monotonic() - self._stopped_at > _KILL_AFTER:
            self.kill()

    @property
    @abstractmethod
    def busy(self) -> Sequence[Any]:
        """The workers that have an order."""

    @abstractmethod
    def assign(self) -> None:
        """Give orders to workers."""

    @abstractmethod
    def listen(self, seconds: float) -> None:
        """Wait up to ``seconds`` for what workers report, and handle it."""

    @abstractmethod
    def tell(self, number: int) -> None:
        """Send this signal to the busy workers."""

    @abstractmethod
    def kill(self) -> None:
        """End the busy workers at once."""

    @abstractmethod
    def close(self, seconds: float) -> None:
        """End all workers; idle ones have ``seconds`` for it."""

    def note_end(self, order: Iterable[int]) -> None:
        """An order has ended: see whether a job of it failed."""
        self._failed |= any(self._ledger.stored(self._jobs[each]).state == "failed" for each in order)

    def end_killed(self, order: Iterable[int], reason: str) -> None:
        """Their worker is gone: the jobs failed, or were interrupted if the sweep was told to stop."""
        told = self._stopped_at is not None
        for number in order:
            job = self._jobs[number]
            row = self._ledger.stored(job)
            if row.state in ("running", "waiting"):
                row = replace(row, state="interrupted" if told else "failed", exit_code=1, ended=now())
                reason = "interrupted before it had saved" if told else reason
                self._ledger.write(job, here(row, reason=reason))
        self.note_end(order)


class JobPool(WorkerPool, SweepPool):
    """Runs jobs in worker processes on this machine.

    Args:
        command: the command line, for ``run.json``.
        draw: draws the pictures of a job; a function that can be pickled.
        trust_plugins: import plugin files that have changed.
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
        WorkerPool.__init__(self, slots.count)
        SweepPool.__init__(self, ledger, fail_fast=fail_fast)
        self._slots = slots
        self._arguments = (str(ledger.directory), slots.threads, command, draw, trust_plugins, slots.sharing)

    def tell(self, number: int) -> None:
        for worker in self.busy:
            if worker.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, number)

    def kill(self) -> None:
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
        return self.take()

    def received(self, worker: Worker, message: Any) -> None:
        self.note_end(worker.order)
        worker.order = None

    def died(self, worker: Worker, reason: str) -> None:
        self.end_killed(worker.order, reason)
