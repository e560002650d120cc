"""Stops a run after its passes through a stream, whose length was not known."""

from __future__ import annotations

from collections.abc import Mapping

from trainctl.training.run import Hook, Run


class Passes(Hook):
    """Stops after ``epochs`` epochs, where a stream ended before the run's number of steps."""

    name = "passes"

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        state = run.state
        if state.epoch >= self.epochs and not state.position and state.step < run.total_steps:
            run.control.stop(f"the stream ended {state.epoch} times, as train.epochs={self.epochs} asks")
