"""Stops a run that a pruner finds hopeless."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from trainctl.training.run import Hook, Run

log = logging.getLogger("trainctl")


class Prune(Hook):
    """Calls ``judge`` with each evaluation but the last, and stops the run for the reason it returns."""

    name = "prune"

    def __init__(self, judge: Callable[[Mapping[str, float]], str | None]) -> None:
        self.judge = judge

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        if run.control.reason is None and run.state.step < run.total_steps:
            reason = self.judge({**run.state.where, **values})
            if reason is not None:
                run.control.stop(reason)
                log.info("stopped: %s", reason)
