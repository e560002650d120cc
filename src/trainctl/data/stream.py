"""Streams: iterable datasets of torch as splits, whose samples come in the order that the dataset gives them.

Nothing is shuffled and no sample is asked for by number. An epoch is one pass, begun anew with random numbers
that (seed, epoch, worker) seed; a place in it is found again by reading up to it. With several workers each
reads its own part, as ``torch.utils.data.get_worker_info`` says, and their blocks of samples take turns.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from trainctl.data.inputs import parts_of, stacked
from trainctl.data.pairs import Pairs, same_pairs
from trainctl.data.progress import Progress
from trainctl.data.sample_values import raised_in, same
from trainctl.data.sampler import derived_seed
from trainctl.data.types import ItemSplit, StreamSplit
from trainctl.data.worker_pool import Feed, _Iterator, forget_read
from trainctl.data.worker_process import (
    Failure,
    Sealed,
    kept_random_state,
    random_state,
    sealed,
    seed_all,
    set_random_state,
    unsealed,
)
from trainctl.errors import ConfigError, StorageError, TrainctlError, WorkerError

_LOOKED_AT, _REPEATED = 256, 16
_SEED = 0
Block = tuple[Any, Tensor]
"""Inputs and targets of some samples, (N, …) each."""


@dataclass
class Stream(Pairs):
    """An iterable dataset, read from its beginning in each epoch.

    Attributes:
        first: inputs of the first samples, which tell it from another stream.
    """

    first: list[Any] = field(default_factory=list)

    def look(self, train: Pairs) -> None:
        """Read the first samples: their shape and type, which are those of ``train``, and their targets."""
        with kept_random_state():
            looked, again = (list(islice(self.samples(_SEED, 0), count)) for count in (_LOOKED_AT, _REPEATED))
        if not looked:
            raise ConfigError(f"{self.where} gives no sample", "its __iter__ must begin anew at each call")
        self.like = train.like or looked[0]
        for number, (inputs, target) in enumerate(looked):
            self.taken(f"{self.where}: sample {number}", (inputs, target))
        self.targets = torch.stack([target for _, target in looked])
        self.first = [inputs for inputs, _ in looked[:_REPEATED]]
        self.repeats = same_pairs(looked[: len(again)], again)

    def split(self) -> StreamSplit:
        try:
            length = len(self.source)
        except (TypeError, NotImplementedError):
            length = None
        return StreamSplit(self, self.targets, length)

    def samples(self, seed: int | None, epoch: int) -> Iterator[tuple[Any, Tensor]]:
        """Input and target of the samples of an epoch, or in a worker process of its part of them.

        Raises ConfigError for one that cannot be read, or differs from the others. The random numbers of
        the process are seeded, and used.
        """
        info = get_worker_info()
        seed_all(derived_seed("stream", seed, epoch, 0 if info is None else info.id))
        source, number = self.source, 0
        with suppress(Exception):  # what cannot be copied is read as it is
            source = copy.deepcopy(source)
        try:
            if hasattr(source, "set_epoch"):
                source.set_epoch(epoch)
            for number, sample in enumerate(source):
                yield self.taken(f"{self.where}: sample {number}", sample)
        except TrainctlError:
            raise
        except Exception as error:  # the dataset's own code
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ConfigError(
                f"{self.where} cannot be read after sample {number}: {reason}", raised_in(error)
            ) from error


class _Blocks(IterableDataset[Any]):
    """The blocks of an epoch; what a worker process receives."""

    def __init__(self, stream: Stream, seed: int | None, epoch: int, size: int) -> None:
        self._stream, self._settings = stream, (seed, epoch, size)
        self._sealed: Sealed | None = None

    def __iter__(self) -> Iterator[Block | Failure]:
        seed, epoch, size = self._settings
        samples = self._stream.samples(seed, epoch)
        try:
            while pairs := list(islice(samples, size)):
                yield stacked([inputs for inputs, _ in pairs]), torch.stack([target for _, target in pairs])
        except TrainctlError as error:
            kept = isinstance(error, WorkerError | StorageError)
            yield Failure(type(error) if kept else ConfigError, error.problems)

    def seal(self) -> _Blocks:
        self._sealed = sealed(self._stream)
        return self

    def __reduce__(self) -> Any:
        assert self._sealed is not None
        return _opened, (self._sealed, *self._settings)


def _opened(given: Sealed, seed: int | None, epoch: int, size: int) -> _Blocks:
    return _Blocks(unsealed(*given), seed, epoch, size)


class StreamFeed(Feed):
    """The blocks of a stream, on the CPU, from worker processes that are started for each epoch, or from
    this process. ``workers`` and the others are as in :class:`trainctl.data.worker_pool.Feed`."""

    def __init__(self, split: StreamSplit, batch_size: int, seed: int | None, **settings: Any) -> None:
        super().__init__(ItemSplit(range(0), split.targets, split.load), batch_size, seed, **settings)
        self._stream, self._seed = split.load, seed

    def blocks(self, epoch: int) -> Generator[Block, None, None]:
        """The blocks of an epoch, of at most ``batch_size`` samples each.

        An iteration ends when another one begins. Raises ConfigError for samples that cannot be used, or
        that two workers have both, WorkerError where a worker died or hangs.
        """
        self._turn += 1
        turn = self._turn
        self.close()
        blocks = _Blocks(self._stream, self._seed, epoch, self.batch_size)
        with closing(self._by_workers(blocks, turn) if self.workers else _made_here(blocks)) as made:
            for block in made:
                if turn != self._turn:
                    raise RuntimeError("another iteration of this loader has begun")
                if isinstance(block, Failure):
                    raise block.kind(block.problems)
                yield block

    def _by_workers(self, blocks: _Blocks, turn: int) -> Generator[Block | Failure, None, None]:
        with self._explaining():
            # Fresh processes: what an epoch leaves in them would be missing after a resume.
            fetched = cast(_Iterator, iter(self._loading(blocks.seal())))
        self._iterator, first = fetched, None
        try:
            for number in range(2**62):
                with self._explaining():
                    block = next(fetched, None)
                if block is None:
                    return
                forget_read()
                if number == 0:
                    first = block
                elif number < self.workers:
                    self._refuse_twice(first, block)
                yield block
        finally:
            if turn == self._turn:
                self.close()

    def _refuse_twice(self, one: Any, other: Any) -> None:
        if isinstance(one, Failure) or isinstance(other, Failure):
            return
        pairs = list(zip(parts_of(one[0]), parts_of(other[0]), strict=True))
        if all(same(*pair) for pair in pairs):
            raise ConfigError(
                f"loader.workers={self.workers}: two workers read the same samples of {self._stream.where}",
                "have its __iter__ take a part of them by torch.utils.data.get_worker_info(), or use"
                " loader.workers=1",
            )


def _made_here(blocks: _Blocks) -> Generator[Block | Failure, None, None]:
    """Blocks made in this process, whose own random numbers they leave alone."""
    made, state = iter(blocks), None
    while True:
        with kept_random_state():
            if state is not None:
                set_random_state(state)
            block = next(made, None)
            state = random_state()
        if block is None:
            return
        yield block


def skipped(blocks: Iterator[Block], count: int, where: str) -> Iterator[Block]:
    """The samples of ``blocks`` after the first ``count``."""
    left, progress = count, Progress(f"{where} is read again up to sample {count}", count)
    for inputs, targets in blocks:
        if left < len(targets):
            yield inputs[left:], targets[left:]
        left = max(0, left - len(targets))
        progress.update(count - left)


def rebatched(blocks: Iterator[Block], size: int, length: int | None) -> Iterator[Block]:
    """The samples of ``blocks``, at most ``length``, in batches of ``size``; the last may be smaller."""
    held: Block | None = None
    taken = 0
    for inputs, targets in blocks:
        if held is not None:
            inputs, targets = torch.cat((held[0], inputs)), torch.cat((held[1], targets))
        if length is not None:
            inputs, targets = inputs[: length - taken], targets[: length - taken]
        while len(targets) >= size:
            yield inputs[:size], targets[:size]
            taken += size
            inputs, targets = inputs[size:], targets[size:]
        held = (inputs, targets) if len(targets) else None
        if length is not None and taken + len(targets) >= length:
            break
    if held is not None:
        yield held
