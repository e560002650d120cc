"""Sweeps whose workers are forked from the process of the trial, which is warm: a server takes seconds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainctl.sweep import pool, run, worker_pool


def workers_from_this_process() -> None:
    """From here to the end of the process."""
    run.start_server = lambda preload="": None
    pool.start_process = _start  # type: ignore[assignment]


def _start(
    target: str, *arguments: Any, output: Path | None = None, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    variables = {**os.environ, **(environment or {})}
    process = multiprocessing.get_context("fork").Process(
        target=worker_pool._run,
        args=(target, arguments, None, str(output or os.devnull), str(Path.cwd()), variables),
    )
    process.start()
    return process
