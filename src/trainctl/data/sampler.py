"""Seeds, and the order of samples: (seed, epoch) decides an epoch's order, (seed, epoch, sample) a seed."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from trainctl.registry.protocols import Cursor


def derived_seed(*parts: object) -> int:
    """A seed of 56 bits from ``parts``, the same on every machine."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


class Share:
    """What one of several processes takes: a slice of each batch, or ``by_turns`` every ``size``-th batch.

    Training takes slices, which differ by one sample at most; the first processes have more. A process whose
    slice is empty, where a batch has fewer samples than there are processes, gets the batch's first sample,
    which does not count. An evaluation goes by turns: its batches are those of one process.

    Attributes:
        neighbours: the processes on this machine, which share its cores.
        count: samples of the newest batch in all processes together.
        idle: whether the newest batch has no sample of this process's own.
    """

    def __init__(self, rank: int = 0, size: int = 1, neighbours: int = 1, *, by_turns: bool = False) -> None:
        self.rank, self.size, self.neighbours, self.by_turns = rank, size, neighbours, by_turns
        self.count, self.idle = 0, False

    def bounds(self, number: int, count: int) -> tuple[int, int]:
        """Where this process's part of the batch ``number``, of ``count`` samples, begins and ends in it."""
        if self.by_turns:
            return 0, count if number % self.size == self.rank else 0
        each, more = divmod(count, self.size)
        begin = self.rank * each + min(self.rank, more)
        end = begin + each + (self.rank < more)
        return (begin, end) if end > begin else (0, 1)

    def taken(self, count: int) -> None:
        """Note that a batch of ``count`` samples comes next."""
        self.count, self.idle = count, not self.by_turns and count <= self.rank


def cursor_after(cursor: Cursor, count: int, samples: int) -> Cursor:
    """Where the batch after one of ``count`` samples begins, in epochs of ``samples`` samples."""
    position = cursor.position + count
    return Cursor(cursor.epoch, position) if position < samples else Cursor(cursor.epoch + 1, 0)


def epoch_order(length: int, seed: int | None, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of ``range(length)`` from ``seed`` and ``epoch`` alone.

    Without a seed, the stored order. Shape: (length,) int64, made on the CPU: the same for every device.
    """
    if seed is None:
        return torch.arange(length)
    generator = torch.Generator().manual_seed(derived_seed("order", seed, epoch))
    return torch.randperm(length, generator=generator)
