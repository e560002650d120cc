"""Device, threads, precision, seeds and determinism."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import math
import os
import platform
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch

from trainctl.errors import ConfigError
from trainctl.paths import cache_folder
from trainctl.registry.protocols import Model, Optimizer
from trainctl.runs import files, strict_json
from trainctl.training.startup import OPENMP_SETTINGS, PASSIVE

_TRIAL_STEPS, _TRIAL_SECONDS = 8, 0.2
_ROUNDS = 3
_CLEAR_GAIN = 1.2
# A cached choice is tried again where a step takes half or twice the time; not where that itself takes long.
_SAME_TIME, _QUICK_STEP = 2.0, 0.02


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


def count_devices(name: str) -> int:
    """``devices=auto``: the GPUs, or the one device there is."""
    return max(1, _cuda_count()) if name in ("auto", "cuda") else 1


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


class Threads(NamedTuple):
    """CPU threads: their number, how it was found, and the seconds of a step where ``auto`` knows them."""

    number: int
    note: str
    seconds: float | None = None


def choose_threads(
    setting: int | str,
    device: torch.device,
    model: Model,
    optimizer: Optimizer,
    trial: Callable[..., object],
    batch: Any,
) -> Threads:
    """Set the number of CPU threads.

    ``auto`` on the CPU measures a few steps of ``trial(model, optimizer, *batch)`` on copies, with one
    thread and with all: on small models two threads are often slower than one, so more are taken only where
    they gain a fifth. The result is cached by machine, model and batch shape, tried again where its step
    takes another time than it did, and recorded, since it changes the last bits of results.
    """
    if isinstance(setting, int):
        torch.set_num_threads(setting)
        return Threads(setting, "as asked")
    most = torch.get_num_threads()
    if device.type != "cpu" or most == 1:
        return Threads(most, f"torch's default{_users_settings()}")
    store = cache_folder() / "threads.json"
    key = _fingerprint(model, optimizer, batch, most)
    cached = _read_json(store)
    known = _known(cached.get(key), most)
    measure = functools.partial(_measure, model, optimizer, trial, batch, device)
    if known is None:
        chosen = _fastest(measure(_candidates(most)), "measured")
    elif not _holds(known, measure):
        chosen = _fastest(measure(_candidates(most)), "measured again: steps took another time than before")
    else:
        chosen = known
    torch.set_num_threads(chosen.number)
    if chosen is not known:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs the next run the measuring
            store.parent.mkdir(parents=True, exist_ok=True)
            entry = {"threads": chosen.number, "seconds": chosen.seconds}
            files.replace(store, json.dumps({**cached, key: entry}).encode(), synced=False)
    return chosen._replace(note=chosen.note + _users_settings())


def _known(entry: Any, most: int) -> Threads | None:
    """The cached choice; None where it makes no sense."""
    if not isinstance(entry, dict):
        return None
    count, seconds = entry.get("threads"), entry.get("seconds")
    if type(count) is not int or not 1 <= count <= most or type(seconds) is not float or not seconds > 0:
        return None
    return Threads(count, "measured before", seconds)


def _holds(known: Threads, measure: Callable[[list[int]], Mapping[int, float]]) -> bool:
    """Whether a step takes about the time that it took; a long one is not tried."""
    before = known.seconds or math.inf
    if before > _QUICK_STEP:
        return True
    return before / _SAME_TIME < measure([known.number])[known.number] < before * _SAME_TIME


def _candidates(most: int) -> list[int]:
    return sorted({1, most, *([most // 2] if most >= 8 else [])})


def _fastest(seconds: Mapping[int, float], note: str) -> Threads:
    """The fewest threads that none of the others beats clearly."""
    enough = _CLEAR_GAIN * min(seconds.values())
    count = min(threads for threads, taken in seconds.items() if taken <= enough)
    return Threads(count, note, seconds[count])


def _users_settings() -> str:
    """The user's own settings of OpenMP, which trainctl leaves as they are."""
    own = [f"{name}={os.environ[name]}" for name in OPENMP_SETTINGS if name in os.environ]
    return "".join(f"; {setting}" for setting in own if setting != PASSIVE)


def _measure(
    model: Model,
    optimizer: Optimizer,
    trial: Callable[..., object],
    batch: Any,
    device: torch.device,
    candidates: Sequence[int],
) -> dict[int, float]:
    """The seconds of a step by number of threads: the shortest of some rounds, fewer of long steps."""
    fastest = dict.fromkeys(candidates, math.inf)
    with random_state_kept(device):
        model, optimizer = copy.deepcopy((model, optimizer))
        for number in range(_ROUNDS):
            for threads in candidates:
                torch.set_num_threads(threads)
                started = time.perf_counter()
                trial(model, optimizer, *batch)
                taken = time.perf_counter() - started
                steps = max(1, min(_TRIAL_STEPS, round(_TRIAL_SECONDS / taken)))
                started = time.perf_counter()
                for _ in range(steps):
                    trial(model, optimizer, *batch)
                fastest[threads] = min(fastest[threads], (time.perf_counter() - started) / steps)
            if number and min(fastest.values()) > _TRIAL_SECONDS:
                break
    return fastest


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = strict_json.parse(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
