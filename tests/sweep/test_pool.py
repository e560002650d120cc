"""A pool that is told to stop says of each job that it was interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.sweep.test_ledger import make
from trainctl.errors import InterruptedRunError
from trainctl.sweep.ledger import Ledger, here
from trainctl.sweep.pool import SweepPool


class Early(SweepPool):
    """Its worker is a process that a signal ends, as one is that has not set up its handlers."""

    worker: subprocess.Popen[bytes] | None = None

    @property
    def busy(self) -> Sequence[Any]:
        return [] if self.worker is None else [self.worker]

    def assign(self) -> None:
        if self.worker is None and (order := self.take()) is not None:
            self.order = order
            self.worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stderr=-3)
            for number in order:
                job = self._jobs[number]
                self._ledger.write(job, here(replace(self._ledger.stored(job), state="running")))
            os.kill(os.getpid(), signal.SIGINT)

    def listen(self, seconds: float) -> None:
        if self.worker is not None and self._stopped_at is not None and self.worker.wait(60):
            self.worker = None
            self.end_killed(self.order, "its process ended")

    def tell(self, number: int) -> None:
        assert self.worker is not None
        self.worker.send_signal(number)

    def kill(self) -> None:
        assert self.worker is not None
        self.worker.kill()

    def close(self, seconds: float) -> None:
        assert self.worker is None


def test_a_job_that_ctrl_c_ends_before_it_saves_is_interrupted(tmp_path: Path) -> None:
    ledger = make(tmp_path)
    with pytest.raises(InterruptedRunError):
        Early(ledger, fail_fast=False).run([[0], [1]], ledger.jobs(), lambda: None)
    rows = [entry.row for entry in Ledger(ledger.directory).rows()]
    assert [row.state for row in rows] == ["interrupted", "waiting"]
    assert rows[0].reason == "interrupted before it had saved"
