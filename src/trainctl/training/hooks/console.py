"""Shows the run as it goes."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping

from torch import Tensor

from trainctl.training.display import Display, Progress, visible
from trainctl.training.pending_losses import fetched, kept
from trainctl.training.run import Hook, Run

log = logging.getLogger("trainctl")
_SMOOTHING = 0.98
_HISTORY = 24
_MOST = 1024


class Console(Hook):
    """Feeds a display. A step costs one append; losses are read from the device when something is drawn.

    Args:
        every: ``display.every`` of the config. An epoch of fewer steps has a line only if it is evaluated or
            the last.
    """

    name = "console"

    def __init__(self, display: Display, total_epochs: int, every: int | None = None) -> None:
        self.display = display
        self.total_epochs = total_epochs
        self._asked = every or 0
        self._every = display.every
        # The display's thread takes losses out while the loop puts them in; a deque needs no lock for that.
        self._pending: deque[Tensor | float] = deque()
        self._reading = threading.Lock()
        self._loss = self._smoothed = float("nan")
        self._sum, self._count = 0.0, 0
        self._history: list[float] = []

    def start(self, run: Run) -> None:
        self._run = run
        self._first_step = run.state.step
        self._started = self._epoch_started = time.perf_counter()
        self.display.live(self)

    def step(self, run: Run, loss: Tensor) -> None:
        self._pending.append(kept(loss))
        if len(self._pending) == _MOST:  # where nothing is drawn, an epoch's would pile up on the device
            with self._reading:
                self._read_losses()
        every = self._every
        if every is not None and run.state.step % every == 0:
            self.display.step(self.progress())

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        state = run.state
        progress = self.progress()
        progress.speed = state.speed
        progress.epoch = state.epoch_number
        progress.epoch_loss = self._sum / self._count if self._count else float("nan")
        self._sum, self._count = 0.0, 0
        if not values and len(run.train_loader) < self._asked and state.step < run.total_steps:
            return
        best = state.best is not None and state.best["step"] == state.step
        seconds = time.perf_counter() - self._epoch_started
        self.display.epoch(progress, visible(values), seconds, best=best)
        epoch = f"epoch {progress.epoch}/{progress.epochs}"
        log.info("%s train/loss %.6g %s", epoch, progress.epoch_loss, dict(values))
        self._epoch_started = time.perf_counter()

    def progress(self) -> Progress:
        """The newest progress; may be called from another thread."""
        with self._reading:
            self._read_losses()
            state, run = self._run.state, self._run
            elapsed = time.perf_counter() - self._started
            done, steps = state.step - self._first_step, len(run.train_loader)
            return Progress(
                step=state.step,
                total_steps=run.total_steps,
                epoch=state.epoch_number,
                epochs=max(self.total_epochs, state.epoch_number),  # a stream may have more than was known
                epoch_step=(state.step - 1) % steps + 1 if state.step else 0,
                epoch_steps=steps,
                loss=self._loss,
                smoothed=self._smoothed,
                lr=state.lr,
                speed=done / elapsed * run.train_loader.samples / steps if elapsed else 0.0,
                remaining=elapsed / done * (run.total_steps - done) if done and elapsed > 0.5 else None,
                history=list(self._history),
            )

    def _read_losses(self) -> None:
        losses = [self._pending.popleft() for _ in range(len(self._pending))]
        if losses:
            self._enter(fetched(losses))

    def _enter(self, losses: list[float]) -> None:
        for loss in losses:
            # NaN means that there is no mean yet.
            first = self._smoothed != self._smoothed
            self._smoothed = loss if first else _SMOOTHING * self._smoothed + (1 - _SMOOTHING) * loss
        self._loss = losses[-1]
        self._sum += sum(losses)
        self._count += len(losses)
        self._history = [*self._history[1 - _HISTORY :], self._smoothed]
