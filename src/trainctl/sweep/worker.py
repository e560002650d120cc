"""A worker process of a sweep: warm, it trains one job after another as it is told.

It is forked from a server that has imported everything and run nothing (a fork after the first operation of
torch may hang). Its process group is its own: what a terminal sends reaches the sweep, which passes it on.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from trainctl.errors import InterruptedRunError
from trainctl.training.interrupts import Stopped, terminable
from trainctl.training.startup import importing

with importing():
    import torch

    from trainctl.checkpoint import bad_step, snapshot
    from trainctl.config import composer
    from trainctl.sweep.group import run_group
    from trainctl.sweep.job import run_job
    from trainctl.sweep.ledger import Ledger
    from trainctl.training import build
    from trainctl.training import resume as resuming
    from trainctl.training.hooks import checkpointer, console, guard, metrics_log, signals

# Imported here for the processes that are forked: a run needs them all.
_WARM = (bad_step, build, checkpointer, composer, console, guard, metrics_log, resuming, signals, snapshot)


def work(
    pipe: Connection,
    directory: str,
    number: int,
    threads: int,
    device: str | None,
    command: str,
    trust_plugins: bool,
    sharing: int,
) -> None:
    """Take lists of job numbers from ``pipe``, train them (several: as one stacked model), answer each.

    Args:
        directory: the sweep's.
        number: this worker's; what its jobs print goes to ``worker-<number>.log``.
        threads: the most CPU threads a job may use.
        device: the GPU that is this worker's, or None.
        sharing: how many workers train on the same memory.
    """
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _redirect(Path(directory) / f"worker-{number}.log")
    orders: queue.Queue[list[int] | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(pipe, orders, busy), daemon=True).start()
    told = threading.Event()
    signal.signal(signal.SIGINT, _interrupt(busy, told))
    ledger = Ledger(Path(directory))
    jobs = {job.number: job for job in ledger.jobs()}
    while True:
        order = orders.get()
        if order is None:
            break
        if any(each not in jobs for each in order):  # added since
            jobs = {job.number: job for job in ledger.jobs()}
        torch.set_num_threads(threads)
        stopped = False
        try:
            with terminable():
                busy.set()
                if told.is_set():
                    raise Stopped(InterruptedRunError("interrupted"))
                if len(order) == 1:
                    run_job(ledger, jobs[order[0]], command, trust_plugins=trust_plugins)
                else:
                    together = [jobs[each] for each in order]
                    run_group(ledger, together, command, trust_plugins=trust_plugins, sharing=sharing)
        except Stopped:
            stopped = True
        finally:
            busy.clear()
        with contextlib.suppress(OSError):
            pipe.send((order, stopped))
    # Whatever libraries would do at exit is not for a fork of theirs.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _interrupt(busy: threading.Event, told: threading.Event) -> Callable[[int, FrameType | None], None]:
    """What the sweep's Ctrl-C does outside the training loop, which has a handler of its own: it ends the job
    that is being prepared, or the one that comes next, which was on its way."""

    def receive(number: int, frame: FrameType | None) -> None:
        told.set()
        if busy.is_set():
            raise Stopped(InterruptedRunError("interrupted"))

    return receive


def _listen(pipe: Connection, orders: queue.Queue[list[int] | None], busy: threading.Event) -> None:
    """Pass orders on. When the sweep has gone, the job that is being trained is told to save and stop."""
    while True:
        try:
            order: Any = pipe.recv()
        except (EOFError, OSError):
            orders.put(None)
            if busy.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            return
        orders.put(order)
        if order is None:
            return


def _redirect(path: Path) -> None:
    """What jobs print must not run into each other, nor into the table of the sweep."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.dup2(null, 0)
    os.close(descriptor)
    os.close(null)
