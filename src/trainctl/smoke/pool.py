"""Warm worker processes, and what each of them is told to do next. No torch in this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainctl.smoke.cases import Case
from trainctl.smoke.entry import begin_victim, begin_worker
from trainctl.smoke.report import AFTER_FAILED, ONCE, Order, Report, Result
from trainctl.sweep.pool import how_it_ended

TOO_LONG = 300.0
"""Seconds without a word after which a phase counts as hung."""


class _Worker:
    def __init__(self, pipe: Any, process: BaseProcess) -> None:
        self.pipe, self.process = pipe, process
        self.order: Any = None
        self.victim: BaseProcess | None = None
        self.heard = time.monotonic()

    @property
    def idle(self) -> bool:
        return self.order is None

    def ends(self) -> list[Any]:
        """What to wait for."""
        return [self.pipe, self.process.sentinel, *([self.victim.sentinel] if self.victim else [])]


class Pool:
    """Leads the life of every case in worker processes.

    The phases of ``ONCE`` are done by the first worker, which alone imports what they need, for the first
    config of each kind. The others of its kind wait for what comes of it.

    Args:
        folder: where runs go; what is done with is removed.
        done: called with each report that is complete.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        settings: Sequence[str],
        config_dir: str | None,
        folder: Path,
        jobs: int,
        done: Callable[[Report], None],
        too_long: float = TOO_LONG,
    ) -> None:
        self._cases, self._jobs, self._done, self._folder = cases, jobs, done, folder
        self._arguments = (tuple(settings), config_dir)
        self._too_long = too_long
        self.reports = [Report(case.label) for case in cases]
        self._lives = list(range(len(cases)))[::-1]
        self._exports: list[tuple[int, Path]] = []
        # Who exports for each kind of config, and who waits for whom.
        self._exporting: dict[str, int] = {}
        self._waiting: list[tuple[int, int]] = []
        self._workers: dict[int, _Worker] = {}

    def run(self) -> None:
        """Do everything."""
        try:
            while self._lives or self._exports or any(not each.idle for each in self._workers.values()):
                for number in range(self._jobs):
                    self._assign(number)
                self._look()
        finally:
            self._close()

    def _assign(self, number: int) -> None:
        worker = self._workers.get(number)
        if worker is not None and not worker.idle:
            return
        if number == 0 and self._exports:
            life, used = self._exports.pop(0)
            order = Order(life, self._cases[life], used)
        elif self._lives:
            life = self._lives.pop()
            order = Order(life, self._cases[life])
        else:
            return
        if worker is None:
            here, there = multiprocessing.get_context("forkserver").Pipe()
            process = begin_worker(self._folder, there, *self._arguments)
            there.close()
            worker = self._workers[number] = _Worker(here, process)
        worker.order, worker.heard = order, time.monotonic()
        with contextlib.suppress(OSError):  # it has died: seen below
            worker.pipe.send(order)

    def _look(self) -> None:
        ends = [end for worker in self._workers.values() for end in worker.ends()]
        ready = connection.wait(ends, timeout=1.0)
        for number, worker in list(self._workers.items()):
            if worker.victim is not None and worker.victim.sentinel in ready:
                worker.victim.join()
                code, worker.victim, worker.heard = worker.victim.exitcode, None, time.monotonic()
                with contextlib.suppress(OSError):
                    worker.pipe.send(code)
            if worker.pipe in ready:
                try:
                    self._hear(worker, *worker.pipe.recv())
                except (EOFError, OSError):
                    self._died(number, worker)
            elif worker.process.sentinel in ready:
                self._died(number, worker)
            elif not worker.idle and time.monotonic() - worker.heard > self._too_long:
                self._end(worker)
                self._died(number, worker, f"nothing for {self._too_long:.0f} s: it hangs")

    def _hear(self, worker: _Worker, kind: str, said: Any) -> None:
        worker.heard = time.monotonic()
        number = worker.order.number
        if kind == "kill":
            worker.victim = begin_victim(self._folder, *said)
        elif kind == "result":
            self.reports[number].enter(said)
        elif kind == "note":
            self.reports[number].notes.append(said)
        else:
            life, worker.order = worker.order, None
            if life.used is None and said.once:
                self._plan_exports(number, said.once, said.used)
            self._finish(number)
            self._tell_waiting()

    def _plan_exports(self, number: int, once: str, used: Path) -> None:
        """Export where no config before is of the same kind; else wait for what comes of that one's."""
        if self._exporting.setdefault(once, number) == number:
            self._exports.append((number, used))
        else:
            self._waiting.append((number, self._exporting[once]))

    def _tell_waiting(self) -> None:
        """Give those who wait the results of the config that exports for them, once it has all of them."""
        waiting, self._waiting = self._waiting, []
        for number, other in waiting:
            if not self.reports[other].complete:
                self._waiting.append((number, other))
                continue
            for result in self.reports[other].results:
                if result.phase in ONCE:
                    self.reports[number].enter(_shared(result, self.reports[other].label))
            self._finish(number)

    def _finish(self, number: int) -> None:
        """Hand the report on where nothing of it is missing."""
        if self.reports[number].complete:
            shutil.rmtree(self._folder / str(number), ignore_errors=True)
            self._done(self.reports[number])

    def _died(self, number: int, worker: _Worker, reason: str | None = None) -> None:
        """A worker that ended without a word: the phase that it was in failed; another takes its place."""
        worker.process.join()
        how = how_it_ended(worker.process)
        del self._workers[number]
        self._end(worker)
        worker.pipe.close()
        if worker.order is None:
            return
        self.reports[worker.order.number].fail(reason or f"its process {how}")
        self._finish(worker.order.number)
        self._tell_waiting()

    def _end(self, worker: _Worker) -> None:
        for process in (worker.victim, worker.process):
            if process is not None and process.is_alive():
                process.kill()
                process.join()

    def _close(self) -> None:
        for worker in self._workers.values():
            if worker.idle:
                with contextlib.suppress(OSError):
                    worker.pipe.send(None)
                worker.process.join(5.0)
            self._end(worker)
            worker.pipe.close()
        self._workers.clear()


def _shared(result: Result, label: str) -> Result:
    """A result of the config ``label`` for one of the same kind, which has not done that phase itself."""
    if result.status == "passed":
        return replace(result, status="skipped", seconds=0.0, reason=f"exported with {label}")
    if result.status == "failed":
        return replace(result, seconds=0.0, reason=f"failed with {label}: {result.reason}")
    reason = result.reason
    if not reason.startswith(AFTER_FAILED):
        reason = f"not exported: {reason}"
    return replace(result, seconds=0.0, reason=reason)
