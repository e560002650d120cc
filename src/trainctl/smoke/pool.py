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
from trainctl.smoke.report import AFTER_FAILED, ONCE, Report, Result
from trainctl.sweep.worker_pool import Worker, WorkerPool, start_process

CHILDREN = {"kill": "trainctl.smoke.worker:die", "devices": "trainctl.smoke.worker:train_on_two"}
"""What a case asks for that takes another process."""


def smoke_process(folder: Path, target: str, *arguments: Any) -> BaseProcess:
    """Run ``target`` in a process of its own; a tracker without an address writes into ``folder``."""
    address = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    return start_process(target, *arguments, environment=address)


class SmokePool(WorkerPool):
    """Runs the lifecycle test of every case in worker processes.

    The phases of ``ONCE`` are run for the first config with a program; the others with the same program wait
    for its results.

    Args:
        folder: holds the runs; those of a finished case are removed.
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
        self._folder, self._done = folder, done
        self._arguments = (tuple(settings), config_dir)
        self.reports = [Report(case.label) for case in cases]
        self._untested = list(enumerate(cases))
        # The case that exports each program, and the one that each case waits for.
        self._exporting: dict[str, int] = {}
        self._sharing: dict[int, int] = {}

    def run(self) -> None:
        """Test every case."""
        try:
            while self._untested or self.busy:
                self.assign()
                self.listen(1.0)
        finally:
            self.close(5.0)

    def start(self, number: int, pipe: Connection) -> BaseProcess:
        return smoke_process(self._folder, "trainctl.smoke.worker:work", self._folder, pipe, *self._arguments)

    def next_order(self, number: int) -> tuple[int, Case] | None:
        return self._untested.pop(0) if self._untested else None

    def received(self, worker: Worker, message: tuple[str, Any]) -> None:
        kind, content = message
        number, _ = worker.order
        report = self.reports[number]
        if kind in CHILDREN:
            worker.child = smoke_process(self._folder, CHILDREN[kind], *content)
        elif kind == "result":
            report.enter(content)
        elif kind == "note":
            report.notes.append(content)
        elif kind == "export":
            worker.send(self._exporting.setdefault(content, number) == number)
        else:
            worker.order = None
            if content:
                self._sharing[number] = self._exporting[content]
            self._finish(number)

    def died(self, worker: Worker, reason: str) -> None:
        """The current phase of the worker failed."""
        number, _ = worker.order
        self.reports[number].fail(reason)
        self._finish(number)

    def _finish(self, number: int) -> None:
        """Report the case if it is complete, and the cases that waited for a complete one's exports."""
        ready = [each for each, exporting in self._sharing.items() if self.reports[exporting].complete]
        for each in ready:
            other = self.reports[self._sharing.pop(each)]
            for result in other.results:
                if result.phase in ONCE:
                    self.reports[each].enter(_shared(result, other.label))
        for each in dict.fromkeys([number, *ready]):
            if self.reports[each].complete:
                shutil.rmtree(self._folder / str(each), ignore_errors=True)
                self._done(self.reports[each])


def _shared(result: Result, label: str) -> Result:
    """The result of the config ``label``, for another one with the same program."""
    if result.status == "passed":
        return replace(result, status="skipped", seconds=0.0, reason=f"exported with {label}")
    if result.status == "failed":
        return replace(result, seconds=0.0, reason=f"failed with {label}: {result.reason}")
    skipped = result.reason if result.reason.startswith(AFTER_FAILED) else f"not exported: {result.reason}"
    return replace(result, seconds=0.0, reason=skipped)
