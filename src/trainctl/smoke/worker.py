"""A worker process of a smoke run: it tests the lifecycle of one config after another.

It is forked from a server that has imported everything and run nothing: a fork after the first operation of
torch may hang. So is each run that is killed; the worker asks the smoke run to start it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from trainctl.config.stored_config import parse_config
from trainctl.distributed import launch
from trainctl.runs.directory import claim
from trainctl.training.display import Display, Progress
from trainctl.training.interrupts import TERMINATING
from trainctl.training.request import Request
from trainctl.training.startup import importing
from trainctl.training.train import train

with importing():
    import torch

    from trainctl.checkpoint import snapshot
    from trainctl.config.composer import Composer
    from trainctl.smoke import two_devices
    from trainctl.smoke.lifecycle import LifecycleTest
    from trainctl.training import build, session
    from trainctl.training.hooks import checkpointer, console, metrics_log, signals

# Imported before the fork: every run needs them.
_WARM = (build, checkpointer, console, metrics_log, session, signals, snapshot, two_devices)


def work(folder: Path, pipe: Connection, settings: Sequence[str], config_dir: str | None) -> None:
    """Test (number, case) after (number, case) from ``pipe`` until it says None, and report through it."""
    for number in (signal.SIGINT, *TERMINATING):
        signal.signal(number, signal.SIG_IGN)  # the smoke run itself ends its workers
    torch.set_num_threads(1)
    composer = Composer(config_dir)

    def tell(*message: object) -> None:
        pipe.send(message)

    def ask(*message: object) -> int:
        pipe.send(message)
        return int(pipe.recv())

    try:
        while (order := pipe.recv()) is not None:
            number, case = order
            test = LifecycleTest(composer, case, tuple(settings), folder / str(number), tell, ask)
            tell("ended", test.run())
    except (EOFError, OSError):
        return  # the smoke run is gone


class _Kill(Display):
    """A display that kills its process in the second step, after the checkpoint of the first."""

    every: int | None = 1

    def step(self, progress: Progress) -> None:
        if progress.step > 1:
            os.kill(os.getpid(), signal.SIGKILL)


def die(directory: Path, stored: Mapping[str, str], command: str) -> None:
    """Train the run that ``stored`` describes in ``directory`` and be killed, as when a machine fails."""
    _train(directory, stored, command, _Kill())


def train_on_two(directory: Path, stored: Mapping[str, str], command: str) -> None:
    """Train such a run in this process and another one; this one ends with the run's exit code."""
    launch.Process = two_devices.ForkedRank  # type: ignore[assignment]
    two_devices.end_with(lambda: _train(directory, stored, command, Display()))


def _train(directory: Path, stored: Mapping[str, str], command: str, display: Display) -> None:
    config = parse_config(stored["config.yaml"], "the config", lambda named: None)
    claim(directory, named=True)
    train(Request(config, stored, directory, (), command, latest=False), display)
