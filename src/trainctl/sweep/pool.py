"""Warm worker processes on one machine, one a core or a GPU. No torch in this process."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.errors import InterruptedRunError, StorageError, TerminatedRunError
from trainctl.runs.record import now
from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.sweep.worker_entry import count_gpus, start
from trainctl.training.interrupts import TERMINATING, handled

if TYPE_CHECKING:
    from trainctl.config.settings import Config

_LOOK_EVERY = 0.1
_KILL_AFTER = 30.0
"""Seconds that workers are given to save after the sweep was told to stop."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_up(preload: str = "trainctl.sweep.worker") -> None:
    """Start the process that workers are forked from, once; it imports ``preload`` while this one goes on.

    Raises StorageError where the temporary folder does not serve.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainctl.sweep.server", preload])
    try:
        forkserver.ensure_running()
    except OSError as error:
        # A socket is made there, whose path may have 108 characters.
        raise StorageError(
            f"starting worker processes failed in {tempfile.gettempdir()}: {error}",
            "set TMPDIR to a folder with a short path",
        ) from error


@dataclass(frozen=True)
class Places:
    """What jobs run on.

    Attributes:
        count: how many at a time.
        threads: the most CPU threads of each.
        devices: the GPU of each worker, where there are several.
    """

    count: int
    threads: int
    devices: tuple[str, ...] = ()

    def device(self, worker: int) -> str | None:
        """The GPU of a worker, or None."""
        return self.devices[worker % len(self.devices)] if self.devices else None

    @property
    def sharing(self) -> int:
        """How many workers train on the same memory, a GPU's or the machine's."""
        return -(-self.count // len(self.devices)) if self.devices else self.count


def places(configs: Sequence[Config], jobs: int) -> Places:
    """How many workers for ``jobs`` jobs with these settings.

    As ``sweep.jobs`` says, or one a GPU, or one for every ``threads`` cores; where the settings differ in
    that, as the most demanding needs it.
    """
    devices = {config.device for config in configs}
    gpus = _gpus() if devices & {"auto", "cuda"} else []
    asked = configs[0].sweep.jobs
    if asked != "auto":
        count = asked
    elif gpus:
        count = len(gpus)
    elif any(device == "mps" or device.startswith("cuda") for device in devices):
        count = 1
    else:
        threads = [config.threads for config in configs if isinstance(config.threads, int)]
        count = max(1, cores() // max(threads, default=1))
    count = max(1, min(count, jobs))
    return Places(count, max(1, cores() // count), tuple(gpus) if len(gpus) > 1 else ())


def _gpus() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return []
    count = _gpu_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(n) for n in range(count)]
    return names[:count]


@functools.cache
def _gpu_count() -> int:
    """How many CUDA devices there are, asked once, in a process of its own: it takes a second."""
    warm_up()
    context = multiprocessing.get_context("forkserver")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=count_gpus, args=(sending,))
    process.start()
    sending.close()
    try:
        count = int(receiving.recv())
    except EOFError:
        count = 0
    process.join()
    return count


def how_it_ended(process: BaseProcess) -> str:
    """How a process that ended without a word did so."""
    code = process.exitcode or 0
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by signal {-code}{' (out of memory?)' if code == -signal.SIGKILL else ''}"


class _Worker:
    def __init__(self, number: int, pipe: Any, process: BaseProcess) -> None:
        self.number, self.pipe, self.process = number, pipe, process
        self.order: list[int] | None = None


class Pool:
    """Runs jobs in worker processes.

    Args:
        where: how many workers, and on what.
        command: the command line, for ``run.json``.
        changed: called when a job began or ended, and about ten times a second.
    """

    def __init__(
        self,
        ledger: Ledger,
        where: Places,
        command: str,
        changed: Callable[[], None] = lambda: None,
        *,
        fail_fast: bool = False,
        trust_plugins: bool = False,
    ) -> None:
        self._ledger, self._where, self._command = ledger, where, command
        self._changed, self._fail_fast, self._trust = changed, fail_fast, trust_plugins
        self._workers: list[_Worker] = []
        self._signal: int | None = None
        self._told_at: float | None = None
        self._failed = False

    @property
    def _stopping(self) -> bool:
        return self._signal is not None or (self._fail_fast and self._failed)

    def run(self, orders: Iterable[Sequence[int]], jobs: Sequence[Job]) -> None:
        """Do every order, a list of job numbers that train together.

        Raises InterruptedRunError or TerminatedRunError when told to stop: what was running is saved then.
        """
        waiting = [list(order) for order in orders]
        waiting.reverse()
        by_number = {job.number: job for job in jobs}
        self._signal = self._told_at = None
        self._failed = False
        with handled((signal.SIGINT, *TERMINATING), self._receive):
            try:
                while waiting or any(worker.order for worker in self._workers):
                    if self._stopping:
                        waiting.clear()
                        self._tell_to_stop()
                    self._assign(waiting)
                    self._look(by_number)
                    self._changed()
            finally:
                self.close(at_once=self._signal is not None)
        if self._signal == signal.SIGINT:
            raise InterruptedRunError("interrupted: what was running is saved")
        if self._signal is not None:
            raise TerminatedRunError("terminated: what was running is saved")

    def _receive(self, number: int, frame: Any) -> None:
        if self._signal == signal.SIGINT == number:
            for worker in self._workers:
                worker.process.kill()
            raise InterruptedRunError("interrupted at once: jobs go on from their last checkpoints")
        self._signal = number

    def _assign(self, waiting: list[list[int]]) -> None:
        free = [worker for worker in self._workers if worker.order is None]
        while waiting and (free or len(self._workers) < self._where.count):
            worker = free.pop() if free else self._begin()
            worker.order = waiting.pop()
            with contextlib.suppress(OSError):  # it has died: seen below
                worker.pipe.send(worker.order)

    def _begin(self) -> _Worker:
        context = multiprocessing.get_context("forkserver")
        here_end, there = context.Pipe()
        taken = {worker.number for worker in self._workers}
        number = next(each for each in range(self._where.count) if each not in taken)
        process = context.Process(
            target=start,
            args=(
                there,
                str(self._ledger.directory),
                number,
                self._where.threads,
                self._where.device(number),
                self._command,
                self._trust,
                self._where.sharing,
                str(Path.cwd()),
                dict(os.environ),
            ),
        )
        process.start()
        there.close()
        worker = _Worker(number, here_end, process)
        self._workers.append(worker)
        return worker

    def _look(self, jobs: dict[int, Job]) -> None:
        ends = [end for worker in self._workers for end in (worker.pipe, worker.process.sentinel)]
        ready = connection.wait(ends, timeout=_LOOK_EVERY)
        for worker in list(self._workers):
            done = worker.order or []
            if worker.pipe in ready:
                try:
                    worker.pipe.recv()
                except (EOFError, OSError):
                    self._died(worker, jobs)
                worker.order = None
            elif worker.process.sentinel in ready:
                self._died(worker, jobs)
            else:
                continue
            self._failed |= any(self._ledger.stored(jobs[each]).state == "failed" for each in done)

    def _died(self, worker: _Worker, jobs: dict[int, Job]) -> None:
        """A worker that ended without a word: its job failed, and the next one gets another worker."""
        worker.process.join()
        told = self._told_at is not None
        how = "was stopped before it had saved" if told else f"its process {how_it_ended(worker.process)}"
        for number in worker.order or ():
            row = self._ledger.stored(jobs[number])
            if row.state == "running" or row.state == "waiting":
                state = "interrupted" if told else "failed"
                values = {**vars(row), "state": state, "exit_code": 1, "ended": now()}
                self._ledger.write(jobs[number], here(Row(**values), reason=how))
        self._workers.remove(worker)
        worker.pipe.close()

    def _tell_to_stop(self) -> None:
        """Have the running jobs save and stop; those that do not are killed after a while."""
        if self._told_at is None:
            self._told_at = time.monotonic()
            number = signal.SIGINT if self._signal == signal.SIGINT else signal.SIGTERM
            for worker in self._workers:
                if worker.order is not None and worker.process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):  # it has died: seen below
                        os.kill(worker.process.pid, number)
        elif time.monotonic() - self._told_at > _KILL_AFTER:
            for worker in self._workers:
                if worker.order is not None:
                    worker.process.kill()

    def close(self, *, at_once: bool = False) -> None:
        """End the workers."""
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.pipe.send(None)
        for worker in self._workers:
            worker.process.join(1.0 if at_once else 10.0)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()
        for log in self._ledger.directory.glob("worker-*.log"):
            if log.stat().st_size == 0:
                log.unlink(missing_ok=True)


def describe(where: Places) -> str:
    """The places in words."""
    workers = f"{where.count} at a time" if where.count > 1 else "one at a time"
    if where.devices and where.count <= len(where.devices):
        return f"{workers}, a GPU each"
    if where.devices:
        return f"{workers} on {len(where.devices)} GPUs, up to {where.sharing} on each"
    return f"{workers}, {where.threads} thread{'s' if where.threads > 1 else ''} each at most"
