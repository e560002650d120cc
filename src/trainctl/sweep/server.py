"""Imported by the process that workers are forked from, before all else, and by no other.

That process must outlive the sweep's: workers are watched through it, and when it is gone they all look dead
while they still save. What a terminal, a scheduler or ``timeout`` sends to the whole group, or to all
processes of a job, is for the sweep and its workers; the server ends when the sweep's process does.
"""

from __future__ import annotations

import contextlib
import os
import signal

from trainctl.training.interrupts import TERMINATING


def _be_oneself() -> None:
    """In a worker the signals do again what they do."""
    for number in TERMINATING:
        signal.signal(number, signal.SIG_DFL)


with contextlib.suppress(OSError):
    os.setpgid(0, 0)
for each in TERMINATING:
    signal.signal(each, signal.SIG_IGN)
os.register_at_fork(after_in_child=_be_oneself)
