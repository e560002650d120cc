"""A worker process of a smoke run: warm, it leads the life of one config after another.

It is forked from a server that has imported everything and run nothing (a fork after the first operation of
torch may hang), and so is each process that is killed: the worker asks for it.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from trainctl.smoke.report import Ended
from trainctl.training.interrupts import TERMINATING
from trainctl.training.startup import importing

with importing():
    import torch

    from trainctl.config.composer import Composer
    from trainctl.smoke import victim
    from trainctl.smoke.lifecycle import Life, Telling

_WARM = (victim,)


def work(folder: Path, pipe: Connection, settings: Sequence[str], config_dir: str | None) -> None:
    """Take orders from ``pipe`` until it says None; results, notes and wishes go back through it."""
    for number in (signal.SIGINT, *TERMINATING):
        signal.signal(number, signal.SIG_IGN)  # the smoke run itself ends its workers
    torch.set_num_threads(1)
    composer = Composer(config_dir)

    def kill(directory: Path, stored: dict[str, str], command: str) -> int:
        pipe.send(("kill", (directory, stored, command)))
        return int(pipe.recv())

    telling = Telling(
        result=lambda result: pipe.send(("result", result)), note=lambda note: pipe.send(("note", note))
    )
    try:
        while (order := pipe.recv()) is not None:
            place = folder / str(order.number)
            life = Life(composer, order.case, tuple(settings), place, kill, telling)
            if order.used is None:
                once = life.lead()
                pipe.send(("ended", Ended(once, life.used)))
            else:
                life.export(order.used)
                pipe.send(("ended", Ended("", order.used)))
    except (EOFError, OSError):
        return  # the smoke run has gone
