"""A worker process of a sweep: warm, it trains one job after another as it is told.

It is forked from a server that has imported everything and run nothing: a fork after the first operation of
torch may hang.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from trainctl.errors import InterruptedRunError
from trainctl.training.interrupts import Stopped, terminable
from trainctl.training.request import Draw
from trainctl.training.startup import importing

with importing():
    import torch

    from trainctl.config import composer
    from trainctl.sweep.job import run_jobs
    from trainctl.sweep.ledger import Ledger
    from trainctl.training import session

# Imported here for the processes that are forked: a run needs all that they import.
_WARM = (composer, session)


def work(
    pipe: Connection,
    directory: str,
    threads: int,
    command: str,
    draw: Draw | None,
    trust_plugins: bool,
    sharing: int,
) -> None:
    """Take lists of job numbers from ``pipe``, train each list (several jobs: as one stacked model), answer.

    Args:
        directory: the sweep's.
        threads: CPU threads a job may use.
        draw: draws the pictures of a job.
        sharing: how many workers share one memory.
    """
    orders: queue.Queue[list[int] | None] = queue.Queue()
    busy, interrupted = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(pipe, orders, busy), daemon=True).start()

    def interrupt(number: int, frame: FrameType | None) -> None:
        """Ctrl-C outside the training loop ends the job that is being prepared, or, between two, the next."""
        interrupted.set()
        if busy.is_set():
            raise Stopped(InterruptedRunError("interrupted"))

    signal.signal(signal.SIGINT, interrupt)
    ledger = Ledger(Path(directory))
    jobs = {job.number: job for job in ledger.jobs()}
    while (order := orders.get()) is not None:
        if any(number not in jobs for number in order):  # a search adds jobs
            jobs = {job.number: job for job in ledger.jobs()}
        asked = [jobs[number] for number in order]
        torch.set_num_threads(threads)
        # The row of a job says that it was stopped.
        with contextlib.suppress(Stopped):
            try:
                with terminable():
                    busy.set()
                    if interrupted.is_set():
                        raise Stopped(InterruptedRunError("interrupted"))
                    run_jobs(ledger, asked, command, draw=draw, trust_plugins=trust_plugins, sharing=sharing)
            finally:
                busy.clear()
        if _is_cuda_broken():
            return  # the jobs have their rows; the pool starts another process for the next ones
        with contextlib.suppress(OSError):
            pipe.send(order)


def _listen(pipe: Connection, orders: queue.Queue[list[int] | None], busy: threading.Event) -> None:
    """Pass orders on. If the sweep's process is gone, the running job is told to save and stop."""
    order: Any = ()
    while order is not None:
        try:
            order = pipe.recv()
        except (EOFError, OSError):
            order = None
            if busy.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
        orders.put(order)


def _is_cuda_broken() -> bool:
    """Whether a kernel has failed, after which the device refuses all else that this process asks of it."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def count_gpus() -> int:
    """The number of CUDA devices."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
