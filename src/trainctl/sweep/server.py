"""Imported first by the process that workers are forked from, and by no other.

That process must outlive the sweep's own: if it died, all workers would look dead while they still save. So
it ignores what a terminal, a scheduler or ``timeout`` sends to the whole process group; it ends when the
sweep's process does.
"""

from __future__ import annotations

import contextlib
import os
import signal

from trainctl.training.interrupts import TERMINATING


def _restore_signals() -> None:
    for number in TERMINATING:
        signal.signal(number, signal.SIG_DFL)


with contextlib.suppress(OSError):
    os.setpgid(0, 0)
for each in TERMINATING:
    signal.signal(each, signal.SIG_IGN)
os.register_at_fork(after_in_child=_restore_signals)
