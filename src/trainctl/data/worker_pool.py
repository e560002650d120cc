"""Raw batches of samples that are loaded one by one, in worker processes or in this one.

Workers are forked from a server process that was started fresh and holds nothing but torch ("forkserver"):

- A fork of the training process would copy its CUDA context, OpenMP pool and locks, each of which can hang a
  worker or outlive the run.
- A fresh interpreter a worker ("spawn") is as safe, but each imports torch, which takes seconds; the server
  does that once, and a fork of it takes some ten milliseconds.

A sample's random numbers are seeded by (seed, epoch, sample), so a batch is the same bytes in every process.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.multiprocessing.reductions import shared_cache
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from trainctl.data.inputs import Shape, sample_shape
from trainctl.data.types import ItemSplit
from trainctl.data.worker_process import SIGNALS, Failure, Key, Samples, begin, kept_random_state, memory_full
from trainctl.errors import ConfigError, WorkerError
from trainctl.paths import safe_path

_FEW_SAMPLES, _QUICK = 512, 1.0
_MAX_WORKERS = 8
_LOOK_SECONDS = 1.0


class Feed:
    """Raw batches of an ItemSplit, on the CPU.

    The first batch is made in this process; workers start with the second. So reading one batch starts no
    process, and no worker disturbs the measurement that chooses the number of threads.

    Args:
        split: the samples.
        seed: with epoch and sample it seeds the random numbers of ``load``.
        workers: processes; 0 loads in this one; ``auto`` as many as there are cores, at most 8, and none for
            a few hundred samples, or those that all load in a second.
        prefetch: batches that each worker makes ahead.
        timeout: seconds to wait for a batch before its worker counts as hung.
        sharing: processes that share this machine's cores, this one included.
        pin: put batches into pinned memory, for asynchronous copies to a GPU.
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
        sharing: int = 1,
    ) -> None:
        self.split, self.batch_size = split, batch_size
        self.workers = _count(split, batch_size, sharing) if workers == "auto" else workers
        self.while_waiting: Callable[[], object] = lambda: None
        """Called about once a second while waiting for a batch; an exception from it ends the waiting."""
        self._samples = Samples(split.load, seed)
        self._prefetch, self._timeout, self._pin = prefetch, timeout, pin
        self._plan = _Plan(split)
        self._loader: _Loader | None = None
        self._iterator: _Iterator | None = None
        self._shape: Shape | None = None
        self._turn = 0

    def batches(self, indices: Iterable[Tensor], epoch: int) -> Iterator[Tensor]:
        """The batches of ``indices``, which are asked for as workers need them: of each the samples' numbers
        and, below them, those that seed the random numbers of their loading, (2, N).

        Raises ConfigError for a sample that cannot be loaded, WorkerError where a worker died or hangs.
        An iteration ends when another one begins: they share the workers.
        """
        self._turn += 1
        turn, left = self._turn, iter(indices)
        if self._loader is None:
            for index in islice(left, 1 if self.workers else None):
                yield self._checked(self._made_here(epoch, index))
        if (first := next(left, None)) is None:
            return
        self._plan.set(epoch, chain([first], left))
        with self._explaining():
            if self._loader is None:
                self._loader = self._start()
            self._iterator = fetched = cast(_Iterator, iter(self._loader))
        while True:
            if turn != self._turn:
                raise RuntimeError("another iteration of this loader has begun")
            with self._explaining():
                batch = next(fetched, None)
            if batch is None:
                return
            forget_read()
            yield self._checked(batch)

    def in_order(self) -> Iterator[Tensor]:
        """The batches of all samples in their stored order."""
        numbers = torch.arange(len(self.split))
        return self.batches(torch.split(torch.stack((numbers, numbers)), self.batch_size, 1), 0)

    def all(self) -> Tensor:
        """All samples, stacked in their order: the first dimension is N."""
        samples: Tensor | None = None
        start = 0
        for batch in self.in_order():
            if samples is None:
                samples = batch.index_select(0, torch.zeros(len(self.split), dtype=torch.int64))
            samples[start : start + len(batch)] = batch
            start += len(batch)
        return torch.empty(0) if samples is None else samples

    def close(self) -> None:
        """End the workers now, without waiting."""
        iterator, self._iterator, self._loader = self._iterator, None, None
        if iterator is not None:
            _kill(iterator._workers)
            atexit.unregister(iterator.at_exit)
            iterator._shutdown_workers()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()

    def _made_here(self, epoch: int, index: Tensor) -> Tensor | Failure:
        """One batch made in this process, whose own random numbers it leaves alone."""
        with kept_random_state():
            batch = self._samples[self._plan.key(epoch, index)]
        return batch.pin_memory() if self._pin and not isinstance(batch, Failure) else batch

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError, RuntimeError) as error:
            raise self._explained(error) from error

    def _start(self) -> _Loader:
        self._samples.seal()
        # A sampler of no length: the last index ends it.
        return self._loading(self._samples, sampler=self._plan, persistent_workers=True)

    def _loading(self, dataset: Any, **settings: Any) -> _Loader:
        with warnings.catch_warnings():
            # torch advises against more workers than cores, which slow storage needs.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader = _Loader(
                dataset,
                batch_size=None,
                num_workers=self.workers,
                pin_memory=self._pin,
                timeout=self._timeout,
                prefetch_factor=self._prefetch,
                worker_init_fn=begin,
                multiprocessing_context=_context(),
                # A separate one: torch would draw the workers' base seed from the run's random numbers.
                generator=torch.Generator(),
                **settings,
            )
        loader.while_waiting = lambda: self.while_waiting()
        return loader

    def _checked(self, batch: Tensor | Failure) -> Tensor:
        if isinstance(batch, Failure):
            raise batch.kind(batch.problems)
        shape = sample_shape(batch)
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            raise ConfigError(
                f"samples have shapes {self._shape} and {shape}",
                "all samples of a dataset must have the same shape",
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
            return memory_full("a data worker found shared memory full")
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


def forget_read() -> None:
    """Have torch release its references to batches that are no longer used.

    It keeps them until there are 128; so small blocks keep the C library from using large ones again, and
    memory grows by a batch a step.
    """
    with shared_cache.lock:
        shared_cache.free_dead_references()  # type: ignore[no-untyped-call]


def _count(split: ItemSplit, batch_size: int, sharing: int) -> int:
    """Workers for ``auto``; none for few or quick samples, because starting workers takes seconds."""
    samples, each = len(split), getattr(split.load, "seconds", math.inf)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(1, cores // sharing)
    return (
        0
        if samples < _FEW_SAMPLES or samples * each < _QUICK
        else min(cores, _MAX_WORKERS, -(-samples // batch_size))
    )


class _Plan:
    """The keys of the batches to make, with the items: a worker has no list of a million paths."""

    def __init__(self, split: ItemSplit) -> None:
        self._items = split.items
        self._epoch = 0
        self._indices: Iterable[Tensor] = ()

    def set(self, epoch: int, indices: Iterable[Tensor]) -> None:
        self._epoch, self._indices = epoch, indices

    def key(self, epoch: int, index: Tensor) -> Key:
        return epoch, [(draw, self._items[number]) for number, draw in index.T.tolist()]

    def __iter__(self) -> Iterator[Key]:
        return (self.key(self._epoch, index) for index in self._indices)


class _Iterator(_MultiProcessingDataLoaderIter):
    """torch's iterator, but checks for dead workers and for signals to the program every second.

    torch checks only after the whole timeout: it relies on SIGCHLD, which the fork server gets here.
    """

    def __init__(self, loader: _Loader) -> None:
        self._while_waiting = loader.while_waiting
        with _starting():
            super().__init__(loader)
        # Runs before multiprocessing's exit handler, which waits for workers to obey a SIGTERM.
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
    while_waiting: Callable[[], object]

    def _get_iterator(self) -> _Iterator:
        return _Iterator(self)


def _kill(workers: Sequence[Any]) -> None:
    for worker in workers:
        # Checked first, because another process may have the id of one that has ended.
        if worker.is_alive():
            worker.kill()


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([begin.__module__, "PIL.Image"])
    return context


@contextmanager
def _starting() -> Iterator[None]:
    """Processes started inside have signals blocked, and do not run the caller's script again.

    A terminal signals the whole process group, and the run still needs workers for its last step.
    """
    # Python unblocks the signals after starting its tracker of resources, so that comes first.
    with safe_path():
        resource_tracker.ensure_running()
    main = sys.modules["__main__"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if hasattr(signal, "pthread_sigmask") else None
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with safe_path():
            yield
    finally:
        sys.modules["__main__"] = main
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
