"""What rank 0's main thread does not notice while it computes, or waits for the others in C++. No torch."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from trainctl.errors import TrainctlError

_LOOK, _NOTICES, _ENDS = 0.2, 3.0, 10.0
_WAKE = signal.SIGURG  # nothing else uses it, and a process that does not expect it ignores it


@contextmanager
def watched(interrupt: Callable[[], None], failure: Callable[[], TrainctlError | None]) -> Iterator[None]:
    """Inside, a second Ctrl-C ends a wait for the other processes, and their failure is raised in the main
    thread where it has not found out by itself within three seconds.

    A thread does both, because Python's handlers of signals wait until the main thread is back from C++. One
    that is not back ten seconds later ends with its process.

    Args:
        interrupt: ends the others at once.
        failure: how the others have failed, as far as is known now; None where they have not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found: list[TrainctlError] = []

    def wake(number: int, frame: FrameType | None) -> None:
        if found:
            raise found[0]

    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    earlier = signal.signal(_WAKE, wake)
    thread = threading.Thread(target=_look, args=(read, interrupt, failure, found), name="ranks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        found.clear()
        signal.set_wakeup_fd(before)
        os.write(write, b"\0")
        thread.join()
        signal.signal(_WAKE, earlier)
        os.close(read)
        os.close(write)


def _look(
    read: int,
    interrupt: Callable[[], None],
    failure: Callable[[], TrainctlError | None],
    found: list[TrainctlError],
) -> None:
    """Until a null byte comes, see to interrupts, which come as bytes, and to ``failure``."""
    main, interrupts, seen = threading.main_thread().ident, 0, 0.0
    while b"\0" not in (heard := os.read(read, 64) if select.select([read], [], [], _LOOK)[0] else b""):
        interrupts += heard.count(signal.SIGINT)
        if interrupts > 1:
            interrupt()
            continue
        if (error := failure()) is None:
            continue
        seen = seen or time.monotonic()
        since = time.monotonic() - seen
        if since > _NOTICES and not found:
            found.append(error)
            signal.pthread_kill(main or 0, _WAKE)
        elif since > _NOTICES + _ENDS:
            print(f"error: {error}", file=sys.stderr, flush=True)
            os._exit(error.exit_code)
