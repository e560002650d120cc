"""A worker process of a smoke run: warm, it tests the lifecycle of one config after another.

It is forked from a server that has imported everything and run nothing: a fork after the first operation of
torch may hang. So is each run that is killed; the worker asks the smoke run to start it.
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
    from trainctl.smoke.lifecycle import LifecycleTest

_WARM = (victim,)


def work(folder: Path, pipe: Connection, settings: Sequence[str], config_dir: str | None) -> None:
    """Take orders from ``pipe`` until it says None; send results, notes and runs to be killed through it."""
    for number in (signal.SIGINT, *TERMINATING):
        signal.signal(number, signal.SIG_IGN)  # the smoke run itself ends its workers
    torch.set_num_threads(1)
    composer = Composer(config_dir)

    def kill(*run: object) -> int:
        pipe.send(("kill", run))
        return int(pipe.recv())

    try:
        while (order := pipe.recv()) is not None:
            test = LifecycleTest(
                composer,
                order.case,
                tuple(settings),
                folder / str(order.number),
                kill,
                on_result=lambda result: pipe.send(("result", result)),
                on_note=lambda note: pipe.send(("note", note)),
            )
            if order.used is None:
                once = test.run()
                pipe.send(("ended", Ended(once, test.used)))
            else:
                test.export(order.used)
                pipe.send(("ended", Ended("", order.used)))
    except (EOFError, OSError):
        return  # the smoke run is gone
