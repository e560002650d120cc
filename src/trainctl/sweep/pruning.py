"""Whether to stop a job of a search early, judged by the metrics of the other jobs.

Each job decides for itself, from the sweep's directory alone: that works in a worker and on another machine
of a cluster, and only the search's own process writes its memory.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.errors import TrainctlError
from trainctl.runs.metrics_file import evaluations
from trainctl.sweep.ledger import Job, Ledger
from trainctl.training.display import number

if TYPE_CHECKING:
    from trainctl.training.built import Built
    from trainctl.training.run import Hook

log = logging.getLogger("trainctl")
PRUNED = "pruned at epoch "
"""The beginning of the reason of a job that was pruned."""


def pruning_hooks(ledger: Ledger, job: Job) -> Callable[[Built], Sequence[Hook]]:
    """Makes the hook that prunes ``job``, for a search with a pruner; else none."""
    pruner = str((ledger.values.get("search") or {}).get("pruner", "none"))

    def make(built: Built) -> Sequence[Hook]:
        if pruner == "none":
            return ()
        from trainctl.training.hooks.prune import Prune

        return (Prune(Judge(ledger, job, pruner, built)),)

    return make


class Judge:
    """Given an evaluation of a job, returns why to stop it, or None."""

    def __init__(self, ledger: Ledger, job: Job, pruner: str, built: Built) -> None:
        self._ledger, self._job, self._pruner = ledger, job, pruner
        self._monitor, self._lower_is_better = built.monitor, built.lower_is_better
        self._epochs = -(-built.run.total_steps // len(built.run.train_loader))
        self._own: dict[int, float] = {}

    def __call__(self, values: Mapping[str, float]) -> str | None:
        from trainctl.sweep.study import Course, is_hopeless

        if self._monitor not in values:
            return None
        epoch = int(values["epoch"])
        if not self._own:  # a resumed job has evaluations from before
            before = self._course(self._job)
            self._own = {each: value for each, value in before.items() if each < epoch}
        self._own[epoch] = values[self._monitor] * (1 if self._lower_is_better else -1)
        others = []
        try:
            for job in self._ledger.jobs():
                if job.number != self._job.number and (course := self._course(job)):
                    row = self._ledger.stored(job)
                    finished = row.state == "done" and not (row.reason or "").startswith(PRUNED)
                    others.append(Course(job.number, course, finished))
        except (OSError, TrainctlError) as error:
            log.warning("not pruned, the other jobs cannot be read: %s", error)
            return None
        if not is_hopeless(self._pruner, self._epochs, others, self._job.number, self._own):
            return None
        shown = f"{self._monitor} {number(values[self._monitor])}"
        return f"{PRUNED}{epoch}: {shown} is hopeless beside {len(others)} other jobs ({self._pruner})"

    def _course(self, job: Job) -> dict[int, float]:
        return course_of(self._ledger.directory_of(job), self._monitor, self._lower_is_better)


def course_of(directory: Path, monitor: str, lower_is_better: bool) -> dict[int, float]:
    """The monitored value after each epoch of the run in ``directory``, as a loss: less is better."""
    course = {}
    for values in evaluations(directory / "metrics.jsonl"):
        value, epoch = values.get(monitor), values.get("epoch")
        if isinstance(value, float | int) and math.isfinite(value) and type(epoch) is int:
            course[epoch] = float(value) if lower_is_better else -float(value)
    return course
