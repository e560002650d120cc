"""Saves the run as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from trainctl import checkpoint
from trainctl.checkpoint import Content
from trainctl.errors import CheckpointError, StorageError
from trainctl.hooks._base import Hook
from trainctl.loop import Run


class Checkpointer(Hook):
    """Saves when it is time, at each new best evaluation and at the end.

    The run is copied between two steps; a thread of its own writes the copy while training goes on. The old
    checkpoints go only after the new one was read back from the disk and found whole.

    Args:
        folder: where the checkpoints go.
        take: copies the run.
        every_steps, every_epochs, every_minutes: when; None is never.
        keep_last: how many of the newest are kept.
        keep_best: how many of the best evaluated are kept, best first by ``monitor``.
        lower_is_better: what is best.
        overlap: write in a thread of its own; otherwise training waits.
        sync: called before a checkpoint is written, brings to the disk what it counts on.
    """

    def __init__(
        self,
        folder: Path,
        take: Callable[[Run], Content],
        *,
        every_steps: int | None = None,
        every_epochs: int | None = 1,
        every_minutes: float | None = None,
        keep_last: int = 1,
        keep_best: int = 1,
        monitor: str = "",
        lower_is_better: bool = True,
        overlap: bool = True,
        sync: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.take, self.sync = folder, take, sync
        self.every_steps, self.every_epochs = every_steps, every_epochs
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.keep_last, self.keep_best = keep_last, keep_best
        self.monitor, self.lower_is_better = monitor, lower_is_better
        self.saved_step = -1
        self._saved_at = time.monotonic()
        self._ranked: list[tuple[float, int]] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if overlap else None
        self._writing: Future[Path] | None = None

    def start(self, run: Run) -> None:
        self._saved_at = time.monotonic()
        checkpoint.clear(self.folder)
        if self.saved_step == run.state.step:
            # Killed after the save that it goes on from, a run had this still to do.
            checkpoint.prune(self.folder, self._kept(run), self.keep_last)

    def step(self, run: Run, loss: Tensor) -> None:
        if self._writing is not None and self._writing.done():
            self.wait()
        if (self.every_steps is not None and run.state.step % self.every_steps == 0) or (
            self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        ):
            self.save(run)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        state = run.state
        ranked = self._rank(values.get(self.monitor), state.step)
        is_best = state.best is not None and state.best["step"] == state.step
        if ranked or is_best or (self.every_epochs is not None and state.epoch % self.every_epochs == 0):
            self.save(run)

    def _rank(self, value: float | None, step: int) -> bool:
        """Enter an evaluation among the best; whether it is one of them. NaN and infinity never are."""
        if value is None or value - value != 0:
            return False
        self._ranked.append((value if self.lower_is_better else -value, step))
        self._ranked = sorted(self._ranked)[: self.keep_best]
        return any(each == step for _, each in self._ranked)

    def end(self, run: Run) -> None:
        self.save(run)
        self.wait()

    def state_dict(self) -> dict[str, Any]:
        return {"ranked": [list(each) for each in self._ranked]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ranked = [(value, step) for value, step in state["ranked"]]

    def save(self, run: Run) -> Path:
        """Save now, unless this step is saved already; returns where the checkpoint will be."""
        state = run.state
        path = self.folder / checkpoint.folder_name(state.step)
        if self.saved_step == state.step:
            return path
        self.wait()
        content = checkpoint.checked(self.take(run))
        self.saved_step, self._saved_at = state.step, time.monotonic()
        keep = self._kept(run)
        if self._writer is None:
            return self._write(content, keep)
        self._writing = self._writer.submit(self._write, content, keep)
        return path

    def _kept(self, run: Run) -> set[int]:
        """The steps whose checkpoints stay, however old."""
        best = run.state.best
        return {step for _, step in self._ranked} | ({int(best["step"])} if best else set())

    def _write(self, content: Content, keep: set[int]) -> Path:
        self.sync()
        path = checkpoint.save(self.folder, content, finite=False)
        try:
            checkpoint.verify(path)
        except CheckpointError as error:
            # Exit 5, not 4: the older checkpoints are there, and the run can be resumed from them.
            raise StorageError(
                f"what was just saved does not read back: {error}", "check the disk, then resume the run"
            ) from error
        checkpoint.prune(self.folder, keep, self.keep_last)
        return path

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
