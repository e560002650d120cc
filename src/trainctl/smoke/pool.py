"""The lifecycle tests of all cases in warm worker processes. No torch in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainctl.smoke.cases import Case
from trainctl.smoke.report import AFTER_FAILED, ONCE, Order, Report, Result
from trainctl.sweep.worker_pool import Worker, WorkerPool, start_process


def smoke_process(folder: Path, target: str, *arguments: Any) -> BaseProcess:
    """Run ``target`` in a process of its own; a tracker without an address writes into ``folder``."""
    return start_process(
        target, *arguments, environment={"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    )


class SmokePool(WorkerPool):
    """Runs the lifecycle test of every case in worker processes.

    The phases of ``ONCE`` are run by the first worker, the only one that imports what they need, and for the
    first config of each kind; the others of its kind wait for its results.

    Args:
        folder: where runs go; those of a finished case are removed.
        done: called with each complete report.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        settings: Sequence[str],
        config_dir: str | None,
        folder: Path,
        jobs: int,
        done: Callable[[Report], None],
        too_long: float = 300.0,
    ) -> None:
        super().__init__(jobs, too_long)
        self._cases, self._folder, self._done = cases, folder, done
        self._arguments = (tuple(settings), config_dir)
        self.reports = [Report(case.label) for case in cases]
        self._waiting = list(range(len(cases)))
        self._exports: list[Order] = []
        # The case that exports for each kind of config, and the cases that wait for it.
        self._exporting: dict[str, int] = {}
        self._sharing: list[tuple[int, int]] = []

    def run(self) -> None:
        """Test every case."""
        try:
            while self._waiting or self._exports or self.busy:
                self.assign()
                self.listen(1.0)
        finally:
            self.close(5.0)

    def start(self, number: int, pipe: Connection) -> BaseProcess:
        return smoke_process(self._folder, "trainctl.smoke.worker:work", self._folder, pipe, *self._arguments)

    def next_order(self, number: int) -> Order | None:
        if number == 0 and self._exports:
            return self._exports.pop(0)
        if not self._waiting:
            return None
        case = self._waiting.pop(0)
        return Order(case, self._cases[case])

    def received(self, worker: Worker, message: tuple[str, Any]) -> None:
        kind, content = message
        order: Order = worker.order
        if kind == "kill":
            worker.child = smoke_process(self._folder, "trainctl.smoke.victim:die", *content)
        elif kind == "result":
            self.reports[order.number].enter(content)
        elif kind == "note":
            self.reports[order.number].notes.append(content)
        else:
            worker.order = None
            if order.used is None and content.once:
                self._plan_export(replace(order, used=content.used), content.once)
            self._finish(order.number)
            self._share()

    def _plan_export(self, order: Order, once: str) -> None:
        """Export, unless an earlier config of the same kind does: then wait for its results."""
        exporting = self._exporting.setdefault(once, order.number)
        if exporting == order.number:
            self._exports.append(order)
        else:
            self._sharing.append((order.number, exporting))

    def _share(self) -> None:
        """Give the cases that wait the results of the one that exports for them, once it has all."""
        waiting, self._sharing = self._sharing, []
        for number, other in waiting:
            if not self.reports[other].complete:
                self._sharing.append((number, other))
                continue
            for result in self.reports[other].results:
                if result.phase in ONCE:
                    self.reports[number].enter(_shared(result, self.reports[other].label))
            self._finish(number)

    def _finish(self, number: int) -> None:
        if self.reports[number].complete:
            shutil.rmtree(self._folder / str(number), ignore_errors=True)
            self._done(self.reports[number])

    def died(self, worker: Worker, reason: str) -> None:
        """The phase that the worker was in failed."""
        self.reports[worker.order.number].fail(reason)
        self._finish(worker.order.number)
        self._share()


def _shared(result: Result, label: str) -> Result:
    """The result of the config ``label``, for one of the same kind that has not run the phase itself."""
    if result.status == "passed":
        return replace(result, status="skipped", seconds=0.0, reason=f"exported with {label}")
    if result.status == "failed":
        return replace(result, seconds=0.0, reason=f"failed with {label}: {result.reason}")
    skipped = result.reason if result.reason.startswith(AFTER_FAILED) else f"not exported: {result.reason}"
    return replace(result, seconds=0.0, reason=skipped)
