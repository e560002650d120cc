"""Saves the run as it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from trainctl.checkpoint.format import CheckpointData, folder_name, save_checkpoint, verify_checkpoint
from trainctl.checkpoint.retention import prune_checkpoints
from trainctl.checkpoint.store import LocalStore
from trainctl.errors import CheckpointError, StorageError
from trainctl.training.hooks.best import tie_loss
from trainctl.training.run import Hook, Run

_SPACING, _PATIENCE = 2.0, 4
"""Seconds between two checkpoints, and how many times as long as the last took to write."""


class Checkpointer(Hook):
    """Saves when it is time, at each new best evaluation and at the end.

    The run is copied between two steps; a thread of its own writes the copy while training goes on. The old
    checkpoints go only after the new one was read back from the disk and found whole.

    ``every_epochs="auto"`` leaves out the checkpoint of an epoch where one is kept and the last was written
    less than two seconds ago, or less than four times as long as that took: the next epoch would delete it,
    and the run would wait for its disk. One of the best stays in memory until then.

    Args:
        hold: takes the run between two steps, ``copied`` where training goes on before it is written; its
            result makes a checkpoint of that.
        every_steps, every_epochs, every_minutes: None is never.
        keep_last: number of the newest that are kept.
        keep_best: number of the best by ``monitor`` that are kept.
        writer: writes in a thread of its own; without one training waits.
        first_waits: the first checkpoint, too, may wait for the next.
        sync: called before a checkpoint is written, to bring the metrics before it to the disk.
        saved: called when checkpoints have been written, in the thread that wrote them.
    """

    name = "checkpoints"

    def __init__(
        self,
        folder: Path,
        hold: Callable[[Run, bool], Callable[[], CheckpointData]],
        *,
        every_steps: int | None = None,
        every_epochs: int | Literal["auto"] | None = 1,
        every_minutes: float | None = None,
        keep_last: int = 1,
        keep_best: int = 1,
        monitor: str = "",
        lower_is_better: bool = True,
        writer: Executor | None = None,
        first_waits: bool = False,
        sync: Callable[[], None] = lambda: None,
        saved: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.hold, self.writer = folder, hold, writer
        self.sync, self.saved = sync, saved
        self.every_steps, self.every_epochs = every_steps, 1 if every_epochs == "auto" else every_epochs
        self._spaced = every_epochs == "auto" and every_steps is None and keep_last == 1
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.keep_last, self.keep_best = keep_last, keep_best
        self.monitor, self.lower_is_better = monitor, lower_is_better
        self.saved_step = -1
        self._saved_at = time.monotonic()
        self._due_at = self._saved_at + _SPACING
        self._ranked: list[tuple[float, float, int]] = []
        self._first_waits, self._now = first_waits, True
        self._writing: Future[None] | None = None
        self._held: dict[int, Callable[[], CheckpointData]] = {}

    def start(self, run: Run) -> None:
        self._saved_at = time.monotonic()
        self._due_at = self._saved_at + _SPACING
        LocalStore(self.folder).remove_leftovers()
        if self.saved_step == run.state.step:
            # A run that was killed right after this save has not pruned yet.
            prune_checkpoints(self.folder, self._kept(run), self.keep_last)

    def step(self, run: Run, loss: Tensor) -> None:
        if self._writing is not None and self._writing.done():
            self.wait()
        if (self.every_steps is not None and run.state.step % self.every_steps == 0) or (
            self.every_seconds is not None and time.monotonic() - self._saved_at >= self.every_seconds
        ):
            run.control.save()
        elif self._held and self._is_due():
            self._write_held(self._kept(run))

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        state = run.state
        ranked = self._rank(values, state.step)
        is_best = state.best is not None and state.best["step"] == state.step
        if ranked or is_best or (self.every_epochs is not None and state.epoch % self.every_epochs == 0):
            self._now = self._is_due()
            run.control.save()

    def _rank(self, values: Mapping[str, float], step: int) -> bool:
        """Enter an evaluation; whether it is among the best. NaN and infinity never are.

        Ties go to the lower loss, then to the later evaluation, as in :class:`Best`.
        """
        value = values.get(self.monitor)
        if value is None or not math.isfinite(value):
            return False
        rank = value if self.lower_is_better else -value, tie_loss(values), -step
        self._ranked = sorted([*self._ranked, rank])[: self.keep_best]
        return rank in self._ranked

    def end(self, run: Run) -> None:
        run.save()
        self.wait()

    def state_dict(self) -> dict[str, Any]:
        return {"ranked": [[value, loss, -minus] for value, loss, minus in self._ranked]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ranked = [(value, loss, -step) for value, loss, step in state["ranked"]]

    def path(self, run: Run) -> Path:
        """The folder of the checkpoint of this step."""
        return self.folder / folder_name(run.state.step)

    def save(self, run: Run) -> None:
        """Save this step, unless it is saved already or, as the class says, left out or kept in memory."""
        step, now = run.state.step, self._now
        self._now = True
        if self.saved_step == step:
            return
        kept = self._kept(run)
        self._held = {each: content for each, content in self._held.items() if each in kept}
        if now:
            self.wait()
        if (now or step in kept) and step not in self._held:
            self._held[step] = self.hold(run, self.writer is not None or not now)
        if now:
            self._write_held(kept)

    def _is_due(self) -> bool:
        first = self.saved_step < 0 and not self._first_waits
        is_writing = self._writing is not None and not self._writing.done()
        return not self._spaced or first or (not is_writing and time.monotonic() >= self._due_at)

    def _write_held(self, kept: set[int]) -> None:
        self.wait()
        contents = [self._held[each]() for each in sorted(self._held)]
        self.saved_step, self._saved_at, self._held = max(self._held), time.monotonic(), {}
        if self.writer is None:
            self._write(contents, kept)
        else:
            self._writing = self.writer.submit(self._write, contents, kept)

    def _kept(self, run: Run) -> set[int]:
        """The steps of the best checkpoints."""
        best = run.state.best
        return {-minus for *_, minus in self._ranked} | ({int(best["step"])} if best else set())

    def _write(self, contents: Sequence[CheckpointData], kept: set[int]) -> None:
        asked = self._saved_at
        for content in contents:
            self.sync()
            path = self.put(content)
            try:
                verify_checkpoint(path)
            except CheckpointError as error:
                # Exit 5, not 4: the older checkpoints are there, and the run can be resumed from them.
                raise StorageError(
                    f"what was just saved does not read back: {error}", "check the disk, then resume the run"
                ) from error
        prune_checkpoints(self.folder, kept, self.keep_last)
        now = time.monotonic()
        self._due_at = now + max(_SPACING, _PATIENCE * (now - asked))
        self.saved()

    def put(self, content: CheckpointData) -> Path:
        """Write a checkpoint; returns its folder. Raises OSError."""
        return save_checkpoint(self.folder, content)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Raises the error of its writing."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self, run: Run) -> None:
        """Write the checkpoints that are held in memory, and wait for them."""
        if self._held:
            self._write_held(self._kept(run))
        self.wait()
