"""A run that is killed in the middle, in a process of its own: by SIGKILL, as when a machine goes down."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from trainctl.config.stored_config import parse_config
from trainctl.runs.directory import claim
from trainctl.training.display import Progress, Silent
from trainctl.training.request import Request
from trainctl.training.startup import importing
from trainctl.training.train import train

with importing():
    from trainctl.checkpoint import snapshot
    from trainctl.training import build, session
    from trainctl.training.hooks import checkpointer, console, metrics_log, signals

# Imported here for the processes that are forked: a run needs them all.
_WARM = (build, checkpointer, console, metrics_log, session, signals, snapshot)


class _Kill(Silent):
    """A display that kills its process in the second step: the checkpoint of the first has been written."""

    every: int | None = 1

    def step(self, progress: Progress) -> None:
        if progress.step > 1:
            os.kill(os.getpid(), signal.SIGKILL)


def die(directory: Path, stored: Mapping[str, str], command: str) -> None:
    """Start the run that ``stored`` describes, in ``directory``, and be killed in it."""
    config = parse_config(stored["config.yaml"], "the config", lambda named: None)
    claim(directory, named=True)
    train(Request(config, stored, directory, (), command, latest=False), _Kill())
