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

    *rest, folder, environment = arguments
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    work(*rest)


def count_gpus(answer: Connection) -> None:
    """Send the number of CUDA devices."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer.send(torch.cuda.device_count() if torch.cuda.is_available() else 0)


def start_measuring(answer: Connection, config: str, threads: int, device: str | None, folder: str) -> None:
    """See :func:`trainctl.sweep.planning.measure`."""
    os.chdir(folder)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    from trainctl.sweep.planning import measure

    measure(answer, config, threads)
