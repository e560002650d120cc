"""What the run takes of the machine: CPU, memory, GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from trainctl.runs.machine import available_memory
from trainctl.training.run import Hook, Run

_GB = 1e9
_PAGE = os.sysconf("SC_PAGE_SIZE")


class SystemMetrics(Hook):
    """Writes a row of readings every so many seconds, after a step, and one at the end.

    Each is there where the machine tells it, and is the mean since the row before, or its value now:

    - ``system/cpu``: of all cores of the machine, in percent;
    - ``system/process_cpu``: of this process, in percent of one core;
    - ``system/memory_gb``: what this process has in memory;
    - ``system/memory_free_gb``: what the machine has left;
    - ``system/gpu``: how long the device worked, in percent; ``system/gpu_memory_gb``: in use, by whomever.

    Args:
        write: writes a row of the newest step.
    """

    name = "system_metrics"

    def __init__(
        self, seconds: float, device: torch.device, write: Callable[[Run, Mapping[str, float]], None]
    ) -> None:
        self._seconds, self._device, self._write = seconds, device, write
        self._utilization = _gpu_utilization(device) if device.type == "cuda" else None

    def start(self, run: Run) -> None:
        self._since, self._process, self._machine = time.monotonic(), _process_seconds(), _machine_ticks()

    def step(self, run: Run, loss: Tensor) -> None:
        if time.monotonic() - self._since >= self._seconds:
            self._write(run, self.reading())

    def end(self, run: Run) -> None:
        self._write(run, self.reading())

    def reading(self) -> dict[str, float]:
        """The values since the last reading."""
        now, process, machine = time.monotonic(), _process_seconds(), _machine_ticks()
        values = {"process_cpu": 100 * (process - self._process) / max(now - self._since, 1e-9)}
        if machine and self._machine and (total := machine[1] - self._machine[1]) > 0:
            values["cpu"] = 100 * (machine[0] - self._machine[0]) / total
        self._since, self._process, self._machine = now, process, machine
        with contextlib.suppress(OSError, ValueError, IndexError):
            values["memory_gb"] = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / _GB
        if (free := available_memory()) is not None:
            values["memory_free_gb"] = free / _GB
        if self._device.type == "cuda":
            left, whole = torch.cuda.mem_get_info(self._device)
            values["gpu_memory_gb"] = (whole - left) / _GB
            if self._utilization is not None and (percent := self._utilization()) is not None:
                values["gpu"] = percent
        return {f"system/{name}": round(value, 3) for name, value in values.items()}


def _process_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _machine_ticks() -> tuple[int, int] | None:
    """The busy and all of the ticks of all cores since the machine was started; None where it is not told."""
    try:
        with Path("/proc/stat").open() as file:
            ticks = [int(each) for each in file.readline().split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle, and waiting for the disk
    except (OSError, ValueError, IndexError):
        return None


def _gpu_utilization(device: torch.device) -> Callable[[], float | None] | None:
    """Reads the percentage of the driver's last second in which the device worked; None without a driver that
    tells it."""
    rates = (ctypes.c_uint * 2)()
    handle = ctypes.c_void_p()
    try:
        driver = ctypes.CDLL("libnvidia-ml.so.1")
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        if driver.nvmlInit_v2() or driver.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
            return None
    except (OSError, AttributeError):
        return None
    return lambda: None if driver.nvmlDeviceGetUtilizationRates(handle, rates) else float(rates[0])
