"""Stops a run that is not worth going on with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from trainctl.training.run import Hook, Run

log = logging.getLogger("trainctl")


class Prune(Hook):
    """After each evaluation but the last, asks whether to go on.

    Args:
        judge: is given the evaluation, with ``step`` and ``epoch``; returns why to stop, or None.
    """

    name = "prune"

    def __init__(self, judge: Callable[[Mapping[str, float]], str | None]) -> None:
        self.judge = judge

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        if run.control.reason is None and run.state.step < run.total_steps:
            reason = self.judge({**run.state.where, **values})
            if reason is not None:
                run.control.stop(reason)
                log.info("stopped: %s", reason)
