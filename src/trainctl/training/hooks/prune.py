"""Stops a run that is not worth going on with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from trainctl.training.hooks.base import Hook
from trainctl.training.loop import Run

log = logging.getLogger("trainctl")


class Prune(Hook):
    """After each evaluation but the last, asks whether to go on.

    Args:
        judge: is given the evaluation, with ``step`` and ``epoch``; returns why to stop, or None.
    """

    def __init__(self, judge: Callable[[Mapping[str, float]], str | None]) -> None:
        self.judge = judge

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        if run.state.stop is None and run.state.step < run.total_steps:
            run.state.stop = self.judge({**run.state.where, **values})
            if run.state.stop is not None:
                log.info("stopped: %s", run.state.stop)
