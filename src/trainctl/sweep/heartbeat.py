"""Writes how far a job is into the ledger, from a thread of its own."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from trainctl.sweep.ledger import Job, Ledger, Row, here
from trainctl.training.display import Display, Progress, Silent, Source


class Heartbeat:
    """A display that passes everything on to ``shown``, and writes the progress into the job's row.

    Args:
        shown: the display that a person sees, if any.
        every: seconds between two heartbeats.
    """

    def __init__(
        self, ledger: Ledger, job: Job, row: Row, shown: Display | None = None, every: float = 0.5
    ) -> None:
        self._ledger, self._job, self.row = ledger, job, row
        self._shown = shown or Silent()
        self.every = self._shown.every
        self._source: Source | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(every,), name="heartbeat", daemon=True)
        self._thread.start()

    def header(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        self._shown.header(title, rows)

    def notice(self, text: str) -> None:
        self._shown.notice(text)

    def live(self, source: Source) -> None:
        self._source = source
        self._shown.live(source)

    def step(self, progress: Progress) -> None:
        self._shown.step(progress)

    def epoch(self, progress: Progress, values: Mapping[str, float], seconds: float, *, best: bool) -> None:
        self._shown.epoch(progress, values, seconds, best=best)

    def table(self, lines: Sequence[str]) -> None:
        self._shown.table(lines)

    def closing(self, rows: Mapping[str, Mapping[str, object]], places: Sequence[tuple[str, str]]) -> None:
        self._shown.closing(rows, places)

    def close(self) -> None:
        self._shown.close()

    def _beat(self, every: float) -> None:
        while not self._ended.wait(every):
            self._write()

    def _write(self) -> None:
        values: dict[str, Any] = {}
        if self._source is not None:
            # A source that has not started has no progress yet.
            with contextlib.suppress(AttributeError):
                progress = self._source.progress()
                values = {"step": progress.step, "total_steps": progress.total_steps}
                if math.isfinite(progress.smoothed):
                    values["loss"] = progress.smoothed
        self.row = here(self.row, **values)
        with contextlib.suppress(OSError):  # a full disk ends the run, not its heartbeat
            self._ledger.beat(self._job, self.row)

    def stop(self) -> None:
        """Write the last heartbeat."""
        self._ended.set()
        self._thread.join()
        if self._source is not None:
            self._write()
