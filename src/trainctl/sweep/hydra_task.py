"""One job of a sweep as the task function that Hydra's launchers call."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trainctl.errors import TrainctlError
from trainctl.sweep.job import run_jobs
from trainctl.sweep.ledger import Ledger
from trainctl.sweep.reporter import Reporter
from trainctl.training.interrupts import TERMINATING, Stopped
from trainctl.training.request import Draw

log = logging.getLogger("trainctl")
_HANDLER = "checkpoint_and_try_requeue"  # submitit's


@dataclass(frozen=True)
class HydraTask:
    """Called once a job: in this process, in another one, or on another machine.

    Attributes:
        directory: the sweep's.
        command: the command line, for ``run.json``.
        began: when the sweep was started, as ``runs.record.now`` gives it.
        draw: draws the pictures of the job.
        count: the number of jobs, for people.
        reporter: shows the job; None in any process but the sweep's own.
    """

    directory: str
    command: str
    began: str
    draw: Draw | None
    count: int
    reporter: Reporter | None

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        ledger = Ledger(Path(self.directory))
        job = ledger.job(int(HydraConfig.get().sweep.subdir))
        if config.sweep.fail_fast and failed_since(ledger, self.began):
            return {"number": job.number, "state": "waiting"}
        display = None
        if self.reporter is not None:
            self.reporter.notice(f"job {job.number + 1}/{self.count}: {job.label}")
            display = self.reporter.run_display(config.display.mode, config.display.every)
        try:
            run_jobs(ledger, [job], self.command, display=display, draw=self.draw)
        except Stopped:
            if self.reporter is not None:
                raise
            queue_again()
            # Its machine stopped this job only, and launchers take no BaseException for an answer.
            return {"number": job.number, "state": "interrupted"}
        row = ledger.stored(job)
        if row.state == "failed":
            reason = f"job {job.number}: {row.reason}"
            if self.reporter is None:
                log.error(reason)
            else:
                self.reporter.error(TrainctlError(reason))
        return {"number": job.number, "state": row.state}


def queue_again() -> None:
    """Put a job that SLURM stopped back into its queue: submitit's handler of a signal does, and exits.

    It refuses once a job has run out of time ``hydra.launcher.max_num_timeout`` times; SLURM refuses one
    that was cancelled.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return
    ours = [each for each in TERMINATING if getattr(signal.getsignal(each), "__name__", "") == _HANDLER]
    for number, pause in itertools.product(ours, (0, 3, 10)):
        time.sleep(pause)
        try:
            signal.raise_signal(number)
        except subprocess.SubprocessError as error:  # SLURM's controller does not always answer at once
            log.error("the job is not queued again: %s", error)
        except Exception as error:
            log.error("the job is not queued again: %s", error)
            return


def failed_since(ledger: Ledger, began: str) -> bool:
    """Whether a job failed after ``began``."""
    return any(row.state == "failed" and (row.ended or "") >= began for _, row in ledger.begun())
