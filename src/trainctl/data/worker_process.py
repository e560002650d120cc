"""A batch of samples that are loaded one by one: in a worker process, or in the training process."""

from __future__ import annotations

import importlib
import importlib.util
import io
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainctl.data.inputs import Inputs, parts_of, stacked
from trainctl.data.sampler import derived_seed
from trainctl.errors import ConfigError, Problem, StorageError, TrainctlError, WorkerError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
Key = tuple[int, list[tuple[int, Any]]]
"""A batch to make: the epoch, and each sample's number and item."""


def random_state() -> tuple[Any, ...]:
    """The state of Python's, NumPy's and torch's CPU random numbers."""
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state()


def set_random_state(state: tuple[Any, ...]) -> None:
    """Restore what :func:`random_state` returned."""
    random.setstate(state[0])
    numpy.random.set_state(state[1])
    torch.set_rng_state(state[2])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Python's, NumPy's and torch's CPU random numbers go on after the block as if it had drawn none."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


def seed_sample(seed: int | None, epoch: int, number: int) -> None:
    """Seed the random numbers that the loading of a sample draws from Python, NumPy or torch."""
    seed_all(derived_seed("sample", seed, epoch, number))


def seed_all(drawn: int) -> None:
    """Seed the random numbers of Python, NumPy and torch on the CPU."""
    random.seed(drawn)
    numpy.random.seed(drawn % 2**32)
    # Not torch.manual_seed, which would queue a call for the GPU at every sample.
    torch.default_generator.manual_seed(drawn)


def load_sample(load: Callable[[Any], Tensor], item: Any) -> Tensor:
    """One raw sample. Raises ConfigError naming the item where it cannot be loaded or is no tensor."""
    try:
        sample = load(item)
    except TrainctlError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{item} cannot be loaded: {type(error).__name__}: {reason}") from error
    if not isinstance(sample, Tensor | Inputs):
        raise ConfigError(f"{item} was loaded as {type(sample).__name__}, not as a tensor")
    return sample


def memory_full(what: str) -> WorkerError:
    return WorkerError(
        what,
        "make /dev/shm larger (docker run --shm-size=8g), make batches smaller, or use loader.workers=0",
    )


@dataclass(frozen=True)
class Failure:
    """An error in place of a batch: raised in a worker, it would reach torch, which loses its problems."""

    kind: type[TrainctlError]
    problems: tuple[Problem, ...]


class Samples(Dataset[Any]):
    """Makes the batch of a key; the only part of the data that a worker receives."""

    def __init__(self, load: Callable[[Any], Tensor], seed: int | None) -> None:
        self._load, self._seed = load, seed
        self._sealed: Sealed | None = None

    def __len__(self) -> int:
        return 0

    def __getitem__(self, key: Key) -> Tensor | Failure:
        try:
            return self._batch(key)
        except TrainctlError as error:
            kept = isinstance(error, WorkerError | StorageError)
            return Failure(type(error) if kept else ConfigError, error.problems)

    def _batch(self, key: Key) -> Tensor:
        epoch, numbered = key
        samples: list[Tensor] = []
        for number, item in numbered:
            seed_sample(self._seed, epoch, number)
            sample = load_sample(self._load, item)
            samples.append(sample)
            for one, first in zip(parts_of(sample), parts_of(samples[0]), strict=True):
                if (one.shape, one.dtype) != (first.shape, first.dtype):
                    raise ConfigError(
                        f"{item} has shape {tuple(one.shape)} {one.dtype},"
                        f" {numbered[0][1]} has {tuple(first.shape)} {first.dtype}",
                        "all samples of a dataset must have the same shape and type",
                    )
        try:
            batch: Tensor = stacked(samples)
        except (RuntimeError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise memory_full(f"a data worker cannot pass on a batch: {reason}") from error
        return batch

    def seal(self) -> None:
        """Pickle ``load`` before any process starts. Raises ConfigError where that cannot be done."""
        self._sealed = sealed(self._load)

    def __reduce__(self) -> tuple[Callable[..., Samples], tuple[Any, ...]]:
        assert self._sealed is not None
        return _unsealed, (*self._sealed, self._seed)


Sealed = tuple[list[tuple[str, str]], bytes]
"""A pickled value, and the names and files of the modules that it needs."""


def sealed(value: Any) -> Sealed:
    """Pickle what a worker needs of a dataset. Raises ConfigError where that cannot be done."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer)
    try:
        pickler.dump(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"the dataset's load cannot be sent to a worker: {error}",
            "make it a function or class of a module, or load with loader.workers=0",
        ) from error
    return sorted(pickler.modules.items()), buffer.getvalue()


class _Pickler(pickle.Pickler):
    """Records the files of the modules it refers to: a plugin's module is not importable by its name."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer)
        self.modules: dict[str, str] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | types.FunctionType):
            path = getattr(sys.modules.get(value.__module__), "__file__", None)
            if path is not None:
                self.modules[value.__module__] = path
        return NotImplemented


def _unsealed(modules: list[tuple[str, str]], payload: bytes, seed: int | None) -> Samples:
    return Samples(unsealed(modules, payload), seed)


def unsealed(modules: list[tuple[str, str]], payload: bytes) -> Any:
    """The inverse of :func:`sealed`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for name, path in modules:
        with suppress(ImportError):
            importlib.import_module(name)
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is not None and spec.loader is not None:
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
    return pickle.loads(payload)


def begin(number: int) -> None:
    """Runs first in a worker: block signals to the group, and end when the training process ends."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    # A thread, because a load that hangs would never check.
    threading.Thread(target=follow, daemon=True).start()
