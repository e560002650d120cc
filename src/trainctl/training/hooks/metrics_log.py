"""Every step's loss, every evaluation and the test, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trainctl.runs.files import Log
from trainctl.training.pending_losses import PendingLosses
from trainctl.training.run import Hook, Run

_BUFFER = 256
_SECONDS = 1.0


class MetricsLog(Hook):
    """Writes ``metrics.jsonl``. Losses stay on the device and are fetched together, at most a second late.

    A checkpoint knows how long the file was; a resumed run cuts off what came after, so that each step is
    there once.
    """

    name = "metrics_log"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: PendingLosses[tuple[int, int, float]] = PendingLosses()
        self._size: int | None = None
        self._log: Log | None = None

    @property
    def log(self) -> Log:
        """The open file."""
        if self._log is None:
            self._log = Log(self.path, self._size)
        return self._log

    def start(self, run: Run) -> None:
        self.log.sync()

    def settle(self, run: Run) -> None:
        self.flush()

    def state_dict(self) -> dict[str, Any]:
        return {"bytes": self.log.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._size = state["bytes"]

    def lacking(self) -> int:
        """How many bytes that the checkpoint counted are no longer there."""
        return max(0, (self._size or 0) - (self.path.stat().st_size if self.path.exists() else 0))

    def sync(self) -> None:
        """Bring what was written to the disk."""
        self.log.sync()

    def step(self, run: Run, loss: Tensor) -> None:
        state = run.state
        self._pending.add((state.step, state.epoch_number, state.lr), loss)
        if arrived := self._pending.arrived(_BUFFER, _SECONDS):
            self._write_losses(arrived)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        if values:
            self.flush()
            self.write({**run.state.where, **values, "samples_per_second": round(run.state.speed, 1)})

    def flush(self) -> None:
        """Write the steps that are still in memory."""
        if taken := self._pending.take():
            self._write_losses(taken)

    def _write_losses(self, taken: Iterable[tuple[tuple[int, int, float], float]]) -> None:
        self.write_steps((step, epoch, loss, lr) for (step, epoch, lr), loss in taken)

    def write_steps(self, steps: Iterable[tuple[int, int, float, float]]) -> None:
        """Write steps whose losses are known: number, epoch from 1, loss and learning rate of each."""
        lines = [_line(*each) for each in steps]
        self.log.write(("\n".join(lines) + "\n").encode())

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one line at once."""
        plain = {key: _plain(value) if isinstance(value, float) else value for key, value in values.items()}
        self.log.write((json.dumps(plain) + "\n").encode())

    def close(self) -> None:
        """Write what is left and close the file. Safe to call before ``start``."""
        if self._log is not None and not self._log.closed:
            try:
                self.flush()
            finally:
                self._log.close()


def _line(step: int, epoch: int, loss: float, lr: float) -> str:
    if loss - loss == 0 and lr - lr == 0:
        # What json.dumps gives, in a quarter of its time.
        return f'{{"step": {step}, "epoch": {epoch}, "train/loss": {loss!r}, "lr": {lr!r}}}'
    return json.dumps({"step": step, "epoch": epoch, "train/loss": _plain(loss), "lr": _plain(lr)})


def _plain(value: float) -> float | str:
    """JSON has no NaN and no infinity: they become the strings "nan", "inf" and "-inf"."""
    return value if value - value == 0 else str(value)
