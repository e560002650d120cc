"""Where worker processes begin. The sweep's own process imports this, and not what workers import."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from typing import Any


def start(*arguments: Any) -> None:
    """Be a worker: see :func:`trainctl.sweep.worker.work`.

    The last two are the folder and the environment of the sweep: the process that workers are forked from
    has those of its own start.
    """
    from trainctl.sweep.worker import work

    *arguments, folder, environment = arguments  # type: ignore[assignment]
    os.chdir(folder)  # type: ignore[arg-type]
    os.environ.clear()
    os.environ.update(environment)  # type: ignore[arg-type]
    work(*arguments)


def count_gpus(answer: Connection) -> None:
    """Send the number of CUDA devices."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer.send(torch.cuda.device_count() if torch.cuda.is_available() else 0)
