"""Where the processes of a smoke run begin. Its own process imports this, and not what they import."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def warm_up() -> None:
    """Start the process that the others are forked from; it imports torch while this one goes on."""
    from trainctl.sweep.pool import warm_up as start_server

    before = os.environ.get("PYTHONWARNINGS")
    # What removes the semaphores of killed processes starts with it, and would say so on the screen.
    quiet = "ignore:resource_tracker:UserWarning"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        start_server("trainctl.smoke.worker")
    finally:
        os.environ.pop("PYTHONWARNINGS") if before is None else os.environ.update(PYTHONWARNINGS=before)


def begin_worker(folder: Path, *arguments: Any) -> BaseProcess:
    """Start a worker: see :func:`trainctl.smoke.worker.work`. Everything goes into ``folder``."""
    return _begin(folder, _work, folder, *arguments)


def begin_victim(folder: Path, directory: Path, stored: Mapping[str, str], command: str) -> BaseProcess:
    """Start a run that is killed: see :func:`trainctl.smoke.victim.die`."""
    return _begin(folder, _die, directory, dict(stored), command)


def _begin(folder: Path, target: Any, *arguments: Any) -> BaseProcess:
    # The process that they are forked from has the folder and the environment of its own start.
    # A tracker without an address of its own writes to where the environment says.
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    process = multiprocessing.get_context("forkserver").Process(
        target=target, args=(str(Path.cwd()), environment, *arguments)
    )
    process.start()
    return process


def _work(folder: str, environment: dict[str, str], *arguments: Any) -> None:
    _settle(folder, environment)
    from trainctl.smoke.worker import work

    work(*arguments)
    # Whatever libraries would do at exit is not for a fork of theirs.
    os._exit(0)


def _die(folder: str, environment: dict[str, str], *arguments: Any) -> None:
    _settle(folder, environment)
    from trainctl.smoke.victim import die

    try:
        die(*arguments)
    except Exception:
        os._exit(1)  # run.json says why
    os._exit(0)


def _settle(folder: str, environment: dict[str, str]) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    os.close(null)
    sys.stdout.flush()
