"""Batches from a stream: an iterable dataset of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Literal

import torch
from torch import nn

from trainctl.components.loaders._copier import Copier
from trainctl.data.mixing import Mix
from trainctl.data.sampler import Share
from trainctl.data.stream import StreamFeed, rebatched, skipped
from trainctl.data.types import StreamSplit, targets_of_batch
from trainctl.errors import ConfigError
from trainctl.registry.protocols import START, Batch, Cursor


class StreamsLoader:
    """Batches in the order in which the stream gives its samples; the cursor counts them.

    A pass from a cursor on reads the samples before it again, and drops them. Each of several processes
    reads the whole stream, and takes its slice of each batch. The arguments are those of
    :func:`trainctl.components.loaders.auto.auto`; ``workers=auto`` is 0, as the order depends on them.

    Attributes:
        steps: batches of a run that is as long as its number of steps says, for a stream without length.
    """

    def __init__(
        self,
        split: StreamSplit,
        transform: nn.Module,
        batch_size: int,
        device: torch.device,
        seed: int | None,
        workers: int | Literal["auto"],
        prefetch: int,
        timeout: float,
        share: Share | None = None,
        mix: Mix | None = None,
    ) -> None:
        self.split, self.transform, self.mix = split, transform, mix
        self.batch_size, self.share = batch_size, share or Share()
        self.steps: int | None = None
        self.feed = StreamFeed(
            split,
            batch_size,
            seed,
            workers=0 if workers == "auto" else workers,
            prefetch=prefetch,
            timeout=timeout,
            pin=device.type == "cuda",
        )
        self._copied = Copier(device)

    def __len__(self) -> int:
        """Batches an epoch, as far as that is known: at most so many."""
        if self.split.length is None and self.steps is not None:
            return self.steps
        return -(-len(self.split) // self.batch_size)

    @property
    def samples(self) -> int:
        return min(len(self.split), len(self) * self.batch_size)

    @property
    def order(self) -> str:
        """What else than the stream decides the order of its samples: as many parts take turns."""
        return str(max(1, self.feed.workers))

    @property
    def note(self) -> str:
        """What people are told of how batches are made, and of what a stream cannot do."""
        workers = f"{self.feed.workers} workers" if self.feed.workers else "this process"
        each = f", each of {self.share.size} devices reads all of it" if self.share.size > 1 else ""
        return (
            f"stream, read by {workers} in its own order{each}: not shuffled, nothing held out of it;"
            " a resume reads the samples of the epoch before it again"
        )

    def batches(self, cursor: Cursor = START) -> Iterator[Batch]:
        """The batches of the cursor's epoch from its position on.

        Raises ConfigError where the stream ends before its first sample, or before the cursor.
        """
        epoch, position, where = cursor.epoch, cursor.position, self.split.load.where
        with closing(self.feed.blocks(epoch)) as blocks:
            left = None if self.split.length is None else self.split.length - position
            made = rebatched(skipped(blocks, position, where), self.batch_size, left)
            ahead = next(made, None)
            while ahead is not None:
                # Only the next batch tells whether this one is the last.
                (inputs, targets), ahead = ahead, next(made, None)
                begin, position = position, position + len(targets)
                after = Cursor(epoch, position) if ahead is not None else Cursor(epoch + 1, 0)
                yield from self._batch(inputs, targets, Cursor(epoch, begin), after)
        if position == cursor.position:
            used = f", whose first {position} were used" if position else ""
            raise ConfigError(
                f"{where} gives no more samples in epoch {epoch + 1}{used}",
                "its __iter__ must begin anew at each call, and give the same samples",
            )

    def _batch(self, inputs: Any, targets: Any, begin: Cursor, after: Cursor) -> Iterator[Batch]:
        """The part of a batch that is this process's, if there is any."""
        count = len(targets)
        start, end = self.share.bounds(begin.position // self.batch_size, count)
        if start == end:
            return
        part = slice(start, end) if self.mix is None else slice(None)  # neighbours are mixed
        targets = self._copied(targets_of_batch(self.split, targets[part]))
        self.share.taken(count)
        batch = self.transform(self._copied(inputs[part])), targets
        if self.mix is not None:
            mixed = self.mix(*batch, *begin, neighbour=False)
            batch = mixed[0][start:end], mixed[1][start:end]
        yield Batch(*batch, count, after)

    def close(self) -> None:
        """End the worker processes."""
        self.feed.close()
