"""The number of jobs that train at a time, and their CPU cores or GPUs. No torch in this process."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainctl.config.settings import Config
from trainctl.sweep.worker_pool import ProcessDiedError, ask, start_server


@dataclass(frozen=True)
class WorkerSlots:
    """``count`` workers at a time, each with up to ``threads`` CPU threads. ``devices`` are several GPUs,
    which workers take in turn, ``each`` of them at once."""

    count: int
    threads: int
    devices: tuple[str, ...] = ()
    each: int = 1

    def environment(self, worker: int) -> dict[str, str]:
        """The environment variables that give a worker its GPUs."""
        if not self.devices:
            return {}
        first = worker * self.each
        own = [self.devices[number % len(self.devices)] for number in range(first, first + self.each)]
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}

    @property
    def sharing(self) -> int:
        """How many workers share one memory, a GPU's or the machine's."""
        return -(-self.count * self.each // len(self.devices)) if self.devices else self.count

    def __str__(self) -> str:
        workers = f"{self.count} at a time" if self.count > 1 else "one at a time"
        if self.devices and self.count * self.each <= len(self.devices):
            return f"{workers}, {'a GPU' if self.each == 1 else f'{self.each} GPUs'} each"
        if self.devices:
            return f"{workers} on {len(self.devices)} GPUs, up to {self.sharing} on each"
        return f"{workers}, up to {self.threads} thread{'s' if self.threads > 1 else ''} each"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_slots(configs: Sequence[Config], jobs: int) -> WorkerSlots:
    """The slots for ``jobs`` jobs: ``sweep.jobs`` of them, or one a GPU, or one for every ``threads`` cores.

    Where the configs differ, the most demanding one decides.
    """
    devices = {config.device for config in configs}
    each = max(config.devices if isinstance(config.devices, int) else 1 for config in configs)
    gpus = _gpus() if devices & {"auto", "cuda"} else []
    asked = configs[0].sweep.jobs
    if asked != "auto":
        count = asked
    elif gpus:
        count = len(gpus) // each
    elif any(device == "mps" or device.startswith("cuda") for device in devices):
        count = 1
    else:
        threads = [config.threads for config in configs if isinstance(config.threads, int)]
        count = max(1, cores() // (each * max(threads, default=1)))
    count = max(1, min(count, jobs))
    return WorkerSlots(count, max(1, cores() // count), tuple(gpus) if len(gpus) > 1 else (), each)


def _gpus() -> list[str]:
    """The GPUs that jobs may use, as CUDA_VISIBLE_DEVICES names them."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return []
    count = _gpu_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible else [str(n) for n in range(count)]
    return names[:count]


@functools.cache
def _gpu_count() -> int:
    """The number of CUDA devices, asked for once and in another process: torch takes a second."""
    start_server()
    try:
        return int(ask("trainctl.sweep.worker:count_gpus"))
    except ProcessDiedError:
        return 0
