"""What the machine tells of its processes and its memory. No torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_CGROUP = "/sys/fs/cgroup/memory."


def process_exists(number: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def available_memory() -> int | None:
    """Bytes that a process can still get, of the machine or of its container; None where neither says."""
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
        free.append(int(text.split(maxsplit=1)[0]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        most, used = (int(Path(f"{_CGROUP}{each}").read_text()) for each in ("max", "current"))
        free.append(max(0, most - used))
    return min(free, default=None)
