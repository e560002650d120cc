"""Seeds, what an epoch draws, and which part of it a process takes: (seed, epoch, sample) decides a seed.

Where an epoch has a sample several times, its place in the order stands for the sample: each time other
random numbers.
"""

from __future__ import annotations

import hashlib

import numpy
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

    def places(self, position: int, batch_size: int, count: int, *, neighbour: bool) -> Tensor:
        """Where in the epoch's order this process's part of the batch at ``position`` lies, (N,) int64.

        With ``neighbour`` one of several processes has in front of it the sample before its first one, in a
        batch whose first sample follows its last: what :class:`trainctl.data.mixing.Mix` mixes it with.
        """
        begin, end = self.bounds(position // batch_size, count)
        places = torch.arange(begin, end)
        if neighbour and self.size > 1:
            places = torch.cat((torch.tensor([(begin - 1) % count]), places))
        return position + places

    def taken(self, count: int) -> None:
        """Note that a batch of ``count`` samples comes next."""
        self.count, self.idle = count, not self.by_turns and count <= self.rank


def cursor_after(cursor: Cursor, count: int, samples: int) -> Cursor:
    """Where the batch after one of ``count`` samples begins, in epochs of ``samples`` samples."""
    position = cursor.position + count
    return Cursor(cursor.epoch, position) if position < samples else Cursor(cursor.epoch + 1, 0)


class Sampling:
    """An epoch of N draws by weights, instead of one that has each sample once.

    The draws are systematic: of N draws, a sample with the share p of all weights gets N·p, rounded down or
    up, and so does each group (Madow, On the Theory of Systematic Sampling, 1949). Independent draws would
    leave out a third of the samples of even the rarest class, and scatter the classes' shares.

    Args:
        weights: (N,), at least one of them above 0.
        groups: (N,) int64, the classes, or None.
    """

    def __init__(self, weights: Tensor, groups: Tensor | None = None) -> None:
        self.weights, self.groups = weights.to(torch.float64).cpu(), None if groups is None else groups.cpu()

    def order(self, generator: torch.Generator) -> Tensor:
        """An epoch's draws in their order, (N,) int64."""
        length = len(self.weights)
        sample = torch.randperm(length, generator=generator)
        if self.groups is not None:
            sample = sample[torch.argsort(self.groups[sample], stable=True)]
        # NumPy's sums do not depend on the number of threads.
        sums = numpy.cumsum(self.weights[sample].numpy())
        start = float(torch.rand((), generator=generator, dtype=torch.float64))
        ends = numpy.minimum(numpy.floor(sums / sums[-1] * length + start), length)
        times = torch.from_numpy(numpy.diff(ends, prepend=0.0).astype(numpy.int64))
        drawn = sample.repeat_interleave(times)
        return drawn[torch.randperm(length, generator=generator)]
