"""Every step's loss, every evaluation and the test, one JSON object a line."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainctl.hooks._base import Hook
from trainctl.loop import Run

_BUFFER = 256
_SECONDS = 1.0


class MetricsLog(Hook):
    """Writes ``metrics.jsonl``. Losses stay on the device and are fetched together, at most a second late."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._steps: list[tuple[int, int, float]] = []
        self._losses: list[Tensor] = []
        self._flushed = time.monotonic()

    def start(self, run: Run) -> None:
        self._file = self.path.open("a", encoding="utf-8")

    def step(self, run: Run, loss: Tensor) -> None:
        state = run.state
        self._steps.append((state.step, state.epoch + 1, state.lr))
        self._losses.append(loss)
        if len(self._losses) >= _BUFFER or time.monotonic() - self._flushed > _SECONDS:
            self.flush()

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        state = run.state
        speed = state.epoch_samples / state.epoch_seconds if state.epoch_seconds else 0.0
        self.flush()
        if values:
            self.write({**state.where, **values, "samples_per_second": round(speed, 1)})

    def flush(self) -> None:
        """Write the steps that are still in memory."""
        if self._losses:
            losses = torch.stack(self._losses).tolist()
            lines = [
                json.dumps({"step": step, "epoch": epoch, "train/loss": _plain(loss), "lr": _plain(lr)})
                for (step, epoch, lr), loss in zip(self._steps, losses, strict=True)
            ]
            self._steps.clear()
            self._losses.clear()
            self._file.write("\n".join(lines) + "\n")
        self._file.flush()
        self._flushed = time.monotonic()

    def write(self, values: Mapping[str, Any]) -> None:
        """Write one line at once."""
        plain = {key: _plain(value) if isinstance(value, float) else value for key, value in values.items()}
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Write what is left and close the file. Safe to call before ``start``."""
        if hasattr(self, "_file") and not self._file.closed:
            self.flush()
            self._file.close()


def _plain(value: float) -> float | str:
    """JSON has no NaN and no infinity: they become the strings "nan", "inf" and "-inf"."""
    return value if value - value == 0 else str(value)
