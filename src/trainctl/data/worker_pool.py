"""Raw batches of samples that are made one by one, in worker processes or in this one.

Workers are forked from a server process that was started fresh and holds nothing but torch ("forkserver"):

- A fork of the training process itself would copy its CUDA context, its OpenMP pool, the locks of the
  thread that draws the display and the lock on the run directory, each of which can hang a worker or outlive
  the run.
- A fresh interpreter a worker ("spawn") is as safe, but each would import torch: seconds of CPU a worker,
  where the server pays them once and a fork of it takes some ten milliseconds.

A sample's random numbers are seeded by (seed, epoch, sample), so a batch is the same bytes whoever makes it.
"""

from __future__ import annotations

import atexit
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
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from torch import Tensor
from torch.multiprocessing.reductions import shared_cache
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from trainctl.data.sampler import derived_seed
from trainctl.data.types import ItemSplit
from trainctl.errors import ConfigError, Problem, TrainctlError, WorkerError

_FEW = 512
_MOST = 8
_LOOK_SECONDS = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Feed:
    """Raw batches of an ItemSplit, on the CPU.

    The first batch is made in this process; workers start when a second one is asked for. So a look at one
    batch starts no process, and nothing runs beside the measuring of threads.

    Args:
        split: the samples.
        seed: with epoch and sample it decides what ``load`` draws.
        workers: processes; 0 loads in this one; ``auto`` as many as there are cores, at most 8, and none for
            a few hundred samples.
        prefetch: batches that each worker makes ahead.
        timeout: seconds to wait for a batch before its worker counts as hung.
        pin: give batches in pinned memory, for asynchronous copies to a GPU.
    """

    def __init__(
        self,
        split: ItemSplit,
        batch_size: int,
        seed: int | None,
        *,
        workers: int | Literal["auto"],
        prefetch: int,
        timeout: float,
        pin: bool = False,
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.workers = _count(len(split), batch_size) if workers == "auto" else workers
        self.while_waiting: Callable[[], None] = _nothing
        """Called about once a second while a batch is waited for; what it raises ends the waiting."""
        self._samples = _Samples(split.load, seed)
        self._prefetch, self._timeout, self._pin = prefetch, timeout, pin
        self._plan = _Plan(split)
        self._loader: DataLoader[Any] | None = None
        self._iterator: _Iterator | None = None
        self._shape: torch.Size | None = None
        self._turn = 0

    def batches(self, order: Tensor, epoch: int) -> Iterator[Tensor]:
        """The batches of the samples whose numbers ``order`` lists.

        Raises ConfigError for a sample that cannot be loaded, WorkerError where a worker died or hangs.
        An iteration ends when another one begins: they share the workers.
        """
        self._turn += 1
        turn, numbers = self._turn, list(torch.split(order, self.batch_size)) if len(order) else []
        if self._loader is None:
            here = 1 if self.workers else len(numbers)
            for index in numbers[:here]:
                yield self._checked(self._made_here(epoch, index))
            numbers = numbers[here:]
        if not numbers:
            return
        self._plan.set(epoch, numbers)
        with self._explaining():
            fetched = self._fetch()
        for _ in numbers:
            if turn != self._turn:
                raise RuntimeError("another iteration of this loader has begun")
            with self._explaining():
                batch = next(fetched)
            _forget_read()
            yield self._checked(batch)

    def all(self) -> Tensor:
        """All samples, stacked in their order: the first dimension is N."""
        samples: Tensor | None = None
        start = 0
        for batch in self.batches(torch.arange(len(self.split)), 0):
            if samples is None:
                samples = torch.empty((len(self.split), *batch.shape[1:]), dtype=batch.dtype)
            samples[start : start + len(batch)] = batch
            start += len(batch)
        return torch.empty(0) if samples is None else samples

    def close(self) -> None:
        """End the workers now. They hold nothing worth saving, so nothing is waited for."""
        iterator, self._iterator, self._loader = self._iterator, None, None
        if iterator is not None:
            _kill(iterator._workers)
            atexit.unregister(iterator.at_exit)
            iterator._shutdown_workers()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()

    def _made_here(self, epoch: int, index: Tensor) -> Tensor | _Failure:
        """One batch made in this process, whose own random numbers it leaves alone."""
        before = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
        try:
            batch = self._samples[self._plan.key(epoch, index)]
        finally:
            random.setstate(before[0])
            numpy.random.set_state(before[1])
            torch.set_rng_state(before[2])
        return batch.pin_memory() if self._pin and isinstance(batch, Tensor) else batch

    def _fetch(self) -> Iterator[Tensor | _Failure]:
        """The batches of the plan, from workers that are started or were before."""
        if self._loader is None:
            self._loader = self._start()
        fetched = iter(self._loader)
        assert isinstance(fetched, _Iterator)
        self._iterator = fetched
        return fetched

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, RuntimeError) as error:
            raise self._explained(error) from error

    def _start(self) -> DataLoader[Any]:
        self._samples.seal()
        with warnings.catch_warnings():
            # torch advises against more workers than cores; whoever asks for them is waiting for storage.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader = _Loader(
                self._samples,
                batch_size=None,
                sampler=self._plan,
                num_workers=self.workers,
                pin_memory=self._pin,
                timeout=self._timeout,
                prefetch_factor=self._prefetch,
                persistent_workers=True,
                worker_init_fn=_begin,
                multiprocessing_context=_context(),
                # One of its own: torch would draw the workers' base seed from the run's random numbers.
                generator=torch.Generator(),
            )
        loader.while_waiting = lambda: self.while_waiting()
        return loader

    def _checked(self, batch: Tensor | _Failure) -> Tensor:
        if isinstance(batch, _Failure):
            raise (WorkerError if batch.in_transport else ConfigError)(batch.problems)
        if self._shape is None:
            self._shape = batch.shape[1:]
        if batch.shape[1:] != self._shape:
            raise ConfigError(
                f"samples have shapes {tuple(self._shape)} and {tuple(batch.shape[1:])}",
                "all samples of a dataset have one shape",
            )
        return batch

    def _explained(self, error: Exception) -> WorkerError:
        if isinstance(error, TimeoutError):
            return WorkerError(
                f"the data workers gave no batch for {self._timeout:g} s",
                f"if the storage is slow, wait longer with loader.timeout={10 * self._timeout:g}; "
                "loader.workers=0 loads without workers and shows where it hangs",
            )
        workers = self._iterator._workers if self._iterator is not None else []
        if isinstance(error, ConnectionError | EOFError):
            # Its end of a connection closes a moment before a process is gone.
            wait([worker.sentinel for worker in workers], timeout=2.0)
        codes = [code for worker in workers if (code := worker.exitcode) is not None]
        if -signal.SIGBUS in codes:
            return _memory_full("a data worker found shared memory full")
        if not codes:
            reason = str(error).partition("\n")[0] or type(error).__name__
            return WorkerError(f"the data workers failed: {reason}", "loader.workers=0 loads without workers")
        how = f"exited with code {codes[0]}"
        if codes[0] < 0:
            how = f"was killed by {signal.Signals(-codes[0]).name}"
        return WorkerError(
            f"a data worker {how}",
            "loader.workers=0 loads without workers; if memory ran out, fewer workers need less",
        )


def _nothing() -> None:
    return None


def _forget_read() -> None:
    """Have torch forget the batches of workers that are no longer used.

    It keeps something small of each until there are 128, and small things between large ones keep the C
    library from using the memory of those again: it would grow by a batch a step until then.
    """
    with shared_cache.lock:
        shared_cache.free_dead_references()  # type: ignore[no-untyped-call]


def _count(samples: int, batch_size: int) -> int:
    """Workers for ``auto``: starting them takes seconds, which a few samples do not."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if samples < _FEW else min(cores, _MOST, -(-samples // batch_size))


def _memory_full(what: str) -> WorkerError:
    return WorkerError(
        what,
        "make /dev/shm larger (docker run --shm-size=8g), make batches smaller, or use loader.workers=0",
    )


class _Plan:
    """The keys of the batches to make: the epoch, and each sample's number and item.

    Items go with the key, so a worker holds no list of a million paths.
    """

    def __init__(self, split: ItemSplit) -> None:
        self._items = split.items
        self._epoch = 0
        self._numbers: Sequence[Tensor] = ()

    def set(self, epoch: int, numbers: Sequence[Tensor]) -> None:
        self._epoch, self._numbers = epoch, numbers

    def key(self, epoch: int, index: Tensor) -> _Key:
        return epoch, [(number, self._items[number]) for number in index.tolist()]

    def __iter__(self) -> Iterator[_Key]:
        return (self.key(self._epoch, index) for index in self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


_Key = tuple[int, list[tuple[int, Any]]]


# ------------------------------------------------------------------ in the training process


class _Iterator(_MultiProcessingDataLoaderIter):
    """torch's, except that a dead worker is noticed and the program's signals are looked at every second.

    torch looks after the whole timeout, because it learns of a death by SIGCHLD, which the server gets.
    """

    def __init__(self, loader: _Loader) -> None:
        self._while_waiting = loader.while_waiting
        with _starting():
            super().__init__(loader)
        # Before multiprocessing's own end of the program, which waits for workers to heed a SIGTERM.
        self.at_exit = partial(_kill, self._workers)
        atexit.register(self.at_exit)

    def _get_data(self) -> Any:
        until = time.monotonic() + self._timeout
        while time.monotonic() < until:
            found, data = self._try_get_data(min(_LOOK_SECONDS, self._timeout))  # type: ignore[no-untyped-call]
            if found:
                return data
            self._while_waiting()
        raise TimeoutError


class _Loader(DataLoader[Any]):
    while_waiting: Callable[[], None]

    def _get_iterator(self) -> _Iterator:
        return _Iterator(self)


def _kill(workers: Sequence[Any]) -> None:
    for worker in workers:
        # Asked first, because the number of a process that is gone may belong to another by now.
        if worker.is_alive():
            worker.kill()


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "PIL.Image"])
    return context


@contextmanager
def _starting() -> Iterator[None]:
    """What is started inside has SIGINT and SIGTERM blocked, and does not run the caller's script again.

    Both signals go to the whole group of processes; a worker that died of one could not feed the step that
    the run still finishes. Blocked from the first instruction on, there is no moment at which it could.
    """
    # Python unblocks the signals after starting its tracker of resources, so that comes first.
    resource_tracker.ensure_running()
    main = sys.modules["__main__"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS) if hasattr(signal, "pthread_sigmask") else None
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# ------------------------------------------------------------------ in a worker


@dataclass(frozen=True)
class _Failure:
    """What went wrong with a batch. Sent, not raised: torch would lose the parts of a trainctl error."""

    problems: tuple[Problem, ...]
    in_transport: bool = False


class _Samples(Dataset[Any]):
    """What makes a batch of a key; all that a worker gets of the data."""

    def __init__(self, load: Callable[[Any], Tensor], seed: int | None) -> None:
        self._load, self._seed = load, seed
        self._sealed: tuple[list[tuple[str, str]], bytes] | None = None

    def __len__(self) -> int:
        return 0

    def __getitem__(self, key: _Key) -> Tensor | _Failure:
        epoch, numbered = key
        samples: list[Tensor] = []
        for number, item in numbered:
            seed = derived_seed("sample", self._seed, epoch, number)
            random.seed(seed)
            numpy.random.seed(seed % 2**32)
            # Not torch.manual_seed, which would note down a call for the GPU at every sample.
            torch.default_generator.manual_seed(seed)
            try:
                sample = self._load(item)
            except TrainctlError as error:
                return _Failure(error.problems)
            except Exception as error:
                reason = str(error).partition("\n")[0]
                return _Failure((Problem(f"{item} cannot be loaded: {type(error).__name__}: {reason}"),))
            if not isinstance(sample, Tensor):
                return _Failure((Problem(f"{item} was loaded as {type(sample).__name__}, not as a tensor"),))
            if samples and (sample.shape, sample.dtype) != (samples[0].shape, samples[0].dtype):
                return _Failure(
                    (
                        Problem(
                            f"{item} has shape {tuple(sample.shape)} {sample.dtype},"
                            f" {numbered[0][1]} has {tuple(samples[0].shape)} {samples[0].dtype}",
                            "all samples of a dataset have one shape and type",
                        ),
                    )
                )
            samples.append(sample)
        try:
            # In a worker the stack is made in shared memory at once.
            batch: Tensor = default_collate(samples)
        except (RuntimeError, OSError) as error:
            reason = str(error).partition("\n")[0]
            return _Failure(_memory_full(f"a data worker cannot pass on a batch: {reason}").problems, True)
        return batch

    def seal(self) -> None:
        """Pickle ``load`` before any process starts. Raises ConfigError where that cannot be done."""
        buffer = io.BytesIO()
        pickler = _Pickler(buffer)
        try:
            pickler.dump(self._load)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"the dataset's load cannot be sent to a worker: {error}",
                "make it a function or class of a module, or load with loader.workers=0",
            ) from error
        self._sealed = sorted(pickler.modules.items()), buffer.getvalue()

    def __reduce__(self) -> tuple[Callable[..., _Samples], tuple[Any, ...]]:
        assert self._sealed is not None
        return _unsealed, (*self._sealed, self._seed)


class _Pickler(pickle.Pickler):
    """Notes the files of the modules it refers to: a plugin's module has a name only where it was loaded."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer)
        self.modules: dict[str, str] = {}

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | types.FunctionType):
            path = getattr(sys.modules.get(value.__module__), "__file__", None)
            if path is not None:
                self.modules[value.__module__] = path
        return NotImplemented


def _unsealed(modules: list[tuple[str, str]], payload: bytes, seed: int | None) -> _Samples:
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
    return _Samples(pickle.loads(payload), seed)


def _begin(number: int) -> None:
    """The first thing a worker does: heed no signal of the group, and end when the training process does."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    # A thread, because a load that hangs would never come to look.
    threading.Thread(target=follow, daemon=True).start()
