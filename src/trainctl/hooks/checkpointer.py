"""Saves the run as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainctl import checkpoint
from trainctl.hooks._base import Hook
from trainctl.loop import Run


class Checkpointer(Hook):
    """Saves after every ``every_epochs`` evaluations, at each new best one and at the end; keeps the best
    and the newest ``keep_last``. The old ones go only after the new one is safe on disk.

    Args:
        folder: where the checkpoints go.
        described: what a reader needs to build the model again (input shape, output size, classes).
    """

    def __init__(
        self, folder: Path, described: Mapping[str, Any], every_epochs: int = 1, keep_last: int = 1
    ) -> None:
        self.folder, self.described = folder, dict(described)
        self.every_epochs, self.keep_last = every_epochs, keep_last
        self.saved_step = -1

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        is_best = run.state.best is not None and run.state.best["step"] == run.state.step
        if is_best or run.state.epoch % self.every_epochs == 0:
            self.save(run)

    def end(self, run: Run) -> None:
        self.save(run)

    def save(self, run: Run) -> Path:
        """Save now, unless this step is saved already; returns the checkpoint."""
        state = run.state
        path = self.folder / checkpoint.folder_name(state.step)
        if self.saved_step == state.step:
            return path
        record = {
            "step": state.step,
            "epoch": state.epoch,
            "position": state.position,
            "best": state.best,
            "last": state.last,
            "stale": state.stale,
            "data": self.described,
        }
        path = checkpoint.save(self.folder, run.model, record)
        self.saved_step = state.step
        best = {int(state.best["step"])} if state.best else set()
        checkpoint.prune(self.folder, best, self.keep_last)
        return path
