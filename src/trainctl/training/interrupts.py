"""Signals outside the training loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from trainctl.errors import TerminatedRunError, TrainctlError

TERMINATING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals of a scheduler, a shutdown or a closed terminal; SLURM and submitit warn with the last two."""


class Stopped(BaseException):
    """A run was told to stop. A BaseException, because library code swallows Exceptions on their way out."""

    def __init__(self, error: TrainctlError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Inside, ``handler`` receives these signals; afterwards the earlier handlers are restored.

    Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, a terminating signal raises Stopped (exit 143)."""

    def receive(number: int, frame: FrameType | None) -> None:
        raise Stopped(TerminatedRunError("terminated"))

    with handled(TERMINATING, receive):
        yield


@contextmanager
def held_back() -> Iterator[None]:
    """Signals wait until the end of the block: an interrupted import leaves broken modules behind.

    Handlers remember them; a signal mask would pass them to another thread. A second Ctrl-C does not wait.
    """
    waiting: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if waiting and number == signal.SIGINT:
            raise KeyboardInterrupt
        waiting.append(number)

    with handled((signal.SIGINT, *TERMINATING), remember):
        yield
    if waiting:
        signal.raise_signal(waiting[0])
