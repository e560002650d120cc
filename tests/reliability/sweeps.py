"""Workers that are forked from the process of the trial, which is warm: a server takes seconds to start."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from trainctl.sweep import planning, pool, run, worker_pool, worker_slots


def workers_from_this_process() -> None:
    """From here to the end of the process."""
    for module in (run, planning, worker_slots):
        module.start_server = lambda preload="": None  # type: ignore[attr-defined]
    pool.start_process = worker_pool.start_process = _start  # type: ignore[assignment]


def _start(
    target: str,
    *arguments: Any,
    answer: Connection | None = None,
    output: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    variables = {**os.environ, **(environment or {})}
    process = multiprocessing.get_context("fork").Process(
        target=worker_pool._run,
        args=(target, arguments, answer, str(output or os.devnull), str(Path.cwd()), variables),
    )
    process.start()
    return process
