"""Sends the run's values to trackers. One that fails is switched off, and the run goes on."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from trainctl.components.trackers._base import Row, Tracker
from trainctl.config.settings import Component
from trainctl.errors import ConfigError, TrainctlError
from trainctl.runs import metrics_file
from trainctl.training.construct import construct
from trainctl.training.interrupts import Stopped
from trainctl.training.pending_losses import PendingLosses
from trainctl.training.run import Hook, Run

log = logging.getLogger("trainctl")
_BUFFER = 1024
_SECONDS = 1.0
# Seconds a tracker may need after the last step; less where the run was told to stop.
_PATIENCE = {"done": 60.0, "failed": 10.0}
_HURRY = 5.0
_SHORT = 2.0


def build_trackers(chosen: Mapping[str, Component]) -> dict[str, Watched]:
    """The trackers of a config, by label. Raises ConfigError where one cannot be built."""
    return {label: Watched(label, _construct(each), each.common["every"]) for label, each in chosen.items()}


def _construct(component: Component) -> Tracker:
    tracker: Tracker = construct(component)
    absent = [name for name in ("start", "metrics", "artifact", "end") if not hasattr(tracker, name)]
    if absent:
        raise ConfigError(
            f"tracker={component.name} built a {type(tracker).__name__}, which has no {', '.join(absent)}",
            "see trainctl.components.trackers._base.Tracker",
        )
    return tracker


class Watched:
    """A tracker in a thread of its own, so that a slow one, or one that hangs, holds nothing up.

    Attributes:
        every: it gets every N-th training step.
        failure: the step and the error that switched it off, or None.
    """

    def __init__(self, label: str, tracker: Tracker, every: int) -> None:
        self.label, self.every = label, every
        self.failure: str | None = None
        self._tracker = tracker
        self._calls: queue.SimpleQueue[tuple[int, str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        # A daemon: what hangs in it must not keep the program alive.
        self._thread = threading.Thread(target=self._work, name=f"tracker {label}", daemon=True)

    def begin(self, step: int, history: Callable[[], Iterator[list[Row]]], *about: Any) -> None:
        """Start it, and pass on the history of the run up to ``step``."""
        self._calls.put((step, "start", about))
        self._calls.put((step, "_replay", (history,)))
        self._thread.start()

    def call(self, step: int, method: str, *arguments: Any) -> None:
        """Have ``method`` called; a failure is reported at ``step``."""
        self._calls.put((step, method, arguments))

    def stop(self) -> None:
        """Let its thread end after the calls so far. Nothing may be called after this."""
        self._calls.put(None)

    def finished(self, deadline: float) -> bool:
        """Wait for the last call until ``deadline``; whether it has returned."""
        # Not the thread's join: interrupted by Ctrl-C, Python 3.11 takes the thread for ended.
        return self._over.wait(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        for step, method, arguments in iter(self._calls.get, None):
            if self.failure is not None:
                continue
            try:
                if method == "_replay":
                    for rows in arguments[0]():
                        self._tracker.metrics(self.chosen(rows))
                else:
                    getattr(self._tracker, method)(*arguments)
            except BaseException as error:  # whatever it is, it is the tracker's
                self.failure = f"failed at step {step}: {_reason(error)}"
                log.warning("tracker %s failed", self.label, exc_info=error)
        self._over.set()

    def chosen(self, rows: Sequence[Row]) -> list[Row]:
        """Every N-th training step, and all other rows."""
        return [row for row in rows if row[0] % self.every == 0 or "train/loss" not in row[1]]


class Tracking(Hook):
    """Feeds trackers. Losses stay on the device and are fetched together, at most a second late.

    A resumed run replays ``metrics.jsonl`` to them, so that a tracker may be added in the middle of a run.

    Args:
        metrics: the run's ``metrics.jsonl``; MetricsLog starts before this hook and cuts off the steps after
            the checkpoint.
        config: settings by dotted key.
        notice: shows a line.

    Attributes:
        states: of each tracker, by label, for ``run.json``: ``running``, ``ok``, or the failure.
    """

    name = "tracking"

    def __init__(
        self,
        trackers: Mapping[str, Watched],
        metrics: Path,
        run_name: str,
        config: Mapping[str, Any],
        notice: Callable[[str], None],
    ) -> None:
        self.trackers, self.metrics, self.run_name, self.config = trackers, metrics, run_name, config
        self.notice = notice
        self.states = dict.fromkeys(trackers, "running")
        self._every = [tracker.every for tracker in trackers.values()]
        self._pending: PendingLosses[tuple[int, float]] = PendingLosses()
        self._step = 0
        self._open = False

    def start(self, run: Run) -> None:
        self._open, self._step = True, run.state.step
        size = self.metrics.stat().st_size
        for tracker in self.trackers.values():
            about = self.metrics.parent, self.run_name, self.config
            tracker.begin(self._step, lambda: _history(self.metrics, size), *about)

    def step(self, run: Run, loss: Tensor) -> None:
        self._step = step = run.state.step
        if any(step % every == 0 for every in self._every):
            self._pending.add((step, run.state.lr), loss)
        if arrived := self._pending.arrived(_BUFFER, _SECONDS):
            self._pass_on(arrived)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self.flush()
        if values:
            self.write(run.state.step, {**values, "samples_per_second": round(run.state.speed, 1)})

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send one row."""
        self._send([(step, dict(values))])

    def flush(self) -> None:
        """Send the steps that are still in memory, and report trackers that have failed."""
        self._pass_on(self._pending.take())

    def _pass_on(self, taken: Sequence[tuple[tuple[int, float], float]]) -> None:
        if taken:
            self._send([(step, {"train/loss": loss, "lr": lr}) for (step, lr), loss in taken])
        self._report_failures()

    def _send(self, rows: list[Row]) -> None:
        for tracker in self.trackers.values():
            if chosen := tracker.chosen(rows):
                tracker.call(chosen[-1][0], "metrics", chosen)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Close the trackers with the status of an error that ends the run inside."""
        try:
            yield
        except BaseException as error:
            self.close(_status(error))
            raise

    def close(self, status: str, artifacts: Sequence[Path] = ()) -> None:
        """Send what is left, the files that exist, and how the run ended; wait for the trackers."""
        if not self._open:
            return
        self._open = False
        try:
            self.flush()
        except RuntimeError as error:  # of the device that failed the run
            log.warning("the last losses were not sent to the trackers: %s", error)
        for tracker in self.trackers.values():
            for path in artifacts:
                if path.is_file():
                    tracker.call(self._step, "artifact", path)
            tracker.call(self._step, "end", status)
            tracker.stop()
        try:
            self._wait(_PATIENCE.get(status, _HURRY))
        finally:
            self._report_failures()
            for label, state in self.states.items():
                if state == "running":
                    self.states[label] = "ok"

    def _wait(self, seconds: float) -> None:
        started = time.monotonic()
        slow = [name for name, each in self.trackers.items() if not each.finished(started + _SHORT)]
        if slow:
            self.notice(f"waiting for tracker {', '.join(slow)}, at most {seconds:.0f} s; Ctrl-C gives it up")
        try:
            for name in slow:
                self.trackers[name].finished(started + seconds)
        finally:
            for tracker in self.trackers.values():
                if tracker.failure is None and not tracker.finished(0):
                    tracker.failure = f"failed at step {self._step}: not finished in time, given up"

    def _report_failures(self) -> None:
        for label, tracker in self.trackers.items():
            if tracker.failure is not None and self.states[label] == "running":
                self.states[label] = tracker.failure
                text = f"tracker {label} {tracker.failure}; it is off, the run goes on"
                log.warning(text)
                self.notice(text)


def _history(path: Path, size: int) -> Iterator[list[Row]]:
    """The rows in the first ``size`` bytes of a ``metrics.jsonl``, some thousand at a time."""
    rows: list[Row] = []
    for row in metrics_file.rows(path, size):
        if row is not None:
            step = row.pop("step")
            row.pop("epoch", None)
            # NaN and infinity are strings there.
            rows.append((step, {name: float(value) for name, value in row.items()}))
        if len(rows) == _BUFFER:
            yield rows
            rows = []
    if rows:
        yield rows


def _status(error: BaseException) -> str:
    if isinstance(error, Stopped):
        return error.error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return error.status if isinstance(error, TrainctlError) else "failed"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:160]
