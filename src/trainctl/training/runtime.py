"""Device, threads, precision, seeds and determinism."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy
import torch

from trainctl.errors import ConfigError
from trainctl.registry.protocols import Model, Optimizer

_TRIAL_STEPS = 8
_ROUNDS = 3


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA, else MPS, else the CPU. A CUDA device becomes torch's current one: pinned memory,
    timing events and peaks of memory are those of the current device.

    Raises ConfigError for a device that is not there.
    """
    count = 0 if name in ("cpu", "mps") else _cuda_count()
    if name == "auto":
        name = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if count == 0:
            raise ConfigError(
                f"device={name}: no CUDA device is available to torch {torch.__version__}",
                "use device=cpu, or device=auto to take what is there",
            )
        if (device.index or 0) >= count:
            raise ConfigError(
                f"device={name}: there are {count} CUDA devices", f"use device=cuda:0 to cuda:{count - 1}"
            )
        torch.cuda.set_device(device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps: no MPS device is available", "use device=cpu, or device=auto")
    return device


def device_name(device: torch.device) -> str:
    """The device as people know it, a GPU with its model."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _cuda_count() -> int:
    with warnings.catch_warnings():
        # torch warns about drivers it cannot use; the message above says what matters.
        warnings.simplefilter("ignore")
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def seed_everything(seed: int) -> None:
    """Seed torch on all devices, NumPy and Python: initialisation, dropout and whatever else draws."""
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_deterministic(on: bool) -> None:
    """Only deterministic algorithms, or an error from torch where there is none.

    cuBLAS needs its workspace fixed before its first use; a value the user set is kept.
    """
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    if on or torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(on)


def precision_context(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context of the forward pass: autocast to bfloat16, or nothing. It can be entered again."""
    if precision == "fp32":
        return nullcontext()
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError("train.precision=bf16: this GPU has no bfloat16", "use train.precision=fp32")
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Restore torch's random state afterwards, so that a trial leaves no trace in the run."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def choose_threads(
    setting: int | str,
    device: torch.device,
    model: Model,
    optimizer: Optimizer,
    trial: Callable[..., object],
    batch: Any,
) -> tuple[int, str]:
    """Set the number of CPU threads; returns it and a note on how it was found.

    ``auto`` on the CPU measures a few steps of ``trial(model, optimizer, *batch)`` on copies, with one
    thread and with all: on small models two threads are often slower than one. The result is cached by
    machine, model and batch shape, and recorded, since it changes the last bits of results.
    """
    if isinstance(setting, int):
        torch.set_num_threads(setting)
        return setting, "as asked"
    most = torch.get_num_threads()
    if device.type != "cpu" or most == 1:
        return most, "torch's default"
    store = _cache_folder() / "threads.json"
    key = _fingerprint(model, optimizer, batch, most)
    known = _read_json(store)
    if type(known.get(key)) is int and 1 <= known[key] <= most:
        torch.set_num_threads(known[key])
        return known[key], "measured before"
    best = _measure(most, model, optimizer, trial, batch, device)
    torch.set_num_threads(best)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs the next run the measuring
        store.parent.mkdir(parents=True, exist_ok=True)
        temporary = store.with_name(f".{store.name}.{os.getpid()}")
        temporary.write_text(json.dumps({**known, key: best}))
        temporary.replace(store)
    return best, "measured"


def _measure(
    most: int,
    model: Model,
    optimizer: Optimizer,
    trial: Callable[..., object],
    batch: Any,
    device: torch.device,
) -> int:
    candidates = sorted({1, most, *([most // 2] if most >= 8 else [])})
    fastest = dict.fromkeys(candidates, float("inf"))
    with random_state_kept(device):
        model, optimizer = copy.deepcopy((model, optimizer))
        for _ in range(_ROUNDS):
            for threads in candidates:
                torch.set_num_threads(threads)
                trial(model, optimizer, *batch)
                started = time.perf_counter()
                for _ in range(_TRIAL_STEPS):
                    trial(model, optimizer, *batch)
                fastest[threads] = min(fastest[threads], time.perf_counter() - started)
    return min(candidates, key=lambda threads: fastest[threads])


def _fingerprint(model: Model, optimizer: Optimizer, batch: Any, most: int) -> str:
    parts = [
        platform.node(),
        platform.processor() or platform.machine(),
        most,
        torch.__version__,
        repr(model),
        type(optimizer).__name__,
        [(tuple(tensor.shape), str(tensor.dtype)) for tensor in batch],
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainctl"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
