"""The order of an epoch: (seed, epoch) decides it.

Of very many samples, or of chunks of them, it is computed where it is asked for: it takes no memory of their
number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor

from trainctl.data.sampler import Sampling, derived_seed

LARGE = 10**8
"""From so many samples on an order is computed; below, it is a tensor of 8 bytes a sample."""
_ROUNDS = 6


class Order(Protocol):
    """Numbers of samples by their places in an epoch; a tensor of all of them is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Any, /) -> Tensor:
        """The samples at ``places``, a slice or (N,) int64. Shape: (N,) int64, on the CPU."""


class Permutation:
    """A pseudo-random permutation of ``range(length)``, or with ``seed`` None these numbers as they are.

    A Feistel network over pairs of digits to the base s, the smallest number whose square is not below
    ``length``; what it takes outside the range is taken again until it is inside (cycle walking: Black and
    Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002, which also has networks over such pairs).
    Its rounds hash by the finalizer of SplitMix64 (Steele et al., Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014). Four rounds of good hashes are enough in theory (Luby and Rackoff, 1988).
    """

    def __init__(self, length: int, seed: int | None) -> None:
        self._length = length
        self._side = numpy.uint64(math.isqrt(max(0, length - 1)) + 1)
        rounds = range(0 if seed is None else _ROUNDS)
        self._keys = [numpy.uint64(derived_seed("round", seed, number)) for number in rounds]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: Any) -> Tensor:
        mixed = self._mixed(_listed(places, self._length).numpy().astype(numpy.uint64))
        while len(outside := numpy.flatnonzero(mixed >= self._length)):
            mixed[outside] = self._mixed(mixed[outside])
        return torch.from_numpy(mixed.astype(numpy.int64))

    def _mixed(self, values: Any) -> Any:
        left, right = values // self._side, values % self._side
        for key in self._keys:
            left, right = right, (left + _hashed(right + key) % self._side) % self._side
        return left * self._side + right


def _hashed(values: Any) -> Any:
    """64 bits to 64 bits, by arithmetic modulo 2**64 alone: the same on every machine."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))


def _listed(places: Any, length: int) -> Tensor:
    return torch.arange(*places.indices(length)) if isinstance(places, slice) else places


@dataclass(frozen=True)
class Chunks:
    """Runs of samples that are stored together: one is cheap to read where others of it were read.

    Attributes:
        ends: where each run ends, (C,) int64, ascending; the last is the number of samples.
        window: runs whose samples are mixed with each other, at least 1.
    """

    ends: Tensor
    window: int

    def select(self, index: Tensor) -> Chunks | None:
        """Those of the samples with these numbers; None where they are not in their stored order."""
        if bool((index[1:] < index[:-1]).any()):
            return None
        return Chunks(torch.searchsorted(index, self.ends), self.window)

    def hold_out(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """The numbers to keep, and ``count`` to hold out, sorted: whole runs, and a part of one more.

        So a pass over those that are held out does not read all runs.
        """
        drawn = torch.randperm(len(self.ends), generator=torch.Generator().manual_seed(seed))
        starts = self.ends - (sizes := torch.diff(self.ends, prepend=self.ends.new_zeros(1)))
        room = (count - (sizes[drawn].cumsum(0) - sizes[drawn])).clamp(min=0)
        held = torch.zeros(int(self.ends[-1]), dtype=torch.bool)
        for start, taken in zip(
            starts[drawn].tolist(), torch.minimum(sizes[drawn], room).tolist(), strict=True
        ):
            held[start : start + taken] = True
        return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


class Windows:
    """The order of an epoch that mixes the runs of ``chunks``, then the samples within windows of some runs.

    With ``seed`` None the stored order. It holds the numbers of one window at a time.
    """

    def __init__(self, chunks: Chunks, seed: int | None, epoch: int) -> None:
        self._seed, self._epoch, self._window = seed, epoch, chunks.window
        sizes = torch.diff(chunks.ends, prepend=chunks.ends.new_zeros(1))
        self.order = sizes.nonzero().squeeze(1)
        if seed is not None:
            self.order = self.order[torch.randperm(len(self.order), generator=self._generator("order"))]
        self._starts, self._sizes = (chunks.ends - sizes)[self.order], sizes[self.order]
        ends = self._sizes.cumsum(0)
        last = torch.arange(chunks.window, len(ends) + chunks.window, chunks.window).clamp(max=len(ends)) - 1
        self._ends = ends[last]
        self._made: tuple[int, Tensor] = -1, self.order

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: Any) -> Tensor:
        places = _listed(places, len(self))
        windows = torch.searchsorted(self._ends, places, right=True)
        numbers = torch.empty_like(places)
        for window in dict.fromkeys(windows.tolist()):
            here = windows == window
            start = int(self._ends[window - 1]) if window else 0
            numbers[here] = self._numbers(window)[places[here] - start]
        return numbers

    def window(self, place: int) -> int:
        """The number of the window that a place is in."""
        return int(torch.searchsorted(self._ends, place, right=True))

    def runs(self, window: int) -> list[int]:
        """The runs of a window, by their numbers; none after the last."""
        return self.order[window * self._window : (window + 1) * self._window].tolist()

    def _numbers(self, window: int) -> Tensor:
        if self._made[0] != window:
            part = slice(window * self._window, (window + 1) * self._window)
            spans = zip(self._starts[part].tolist(), self._sizes[part].tolist(), strict=True)
            numbers = torch.cat([torch.arange(start, start + size) for start, size in spans])
            if self._seed is not None:
                numbers = numbers[torch.randperm(len(numbers), generator=self._generator("window", window))]
            self._made = window, numbers
        return self._made[1]

    def _generator(self, *what: object) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(*what, self._seed, self._epoch))


def epoch_order(
    length: int,
    seed: int | None,
    epoch: int,
    sampling: Sampling | None = None,
    chunks: Chunks | None = None,
) -> Order:
    """The order of an epoch: a permutation of ``range(length)``, or ``length`` draws of ``sampling``, from
    ``seed`` and ``epoch`` alone.

    Without a seed, the stored order. The same for every device: a tensor (length,) int64, or with ``chunks``,
    or from ``LARGE`` samples on, what computes it.
    """
    if sampling is not None and seed is not None:
        drawn = sampling.order(_generator(seed, epoch))
        if chunks is None:
            return drawn
        drawn = drawn.sort().values
        return drawn[Windows(Chunks(torch.searchsorted(drawn, chunks.ends), chunks.window), seed, epoch)[:]]
    if chunks is not None:
        return Windows(chunks, seed, epoch)
    if length >= LARGE:
        return Permutation(length, None if seed is None else derived_seed("order", seed, epoch))
    return torch.arange(length) if seed is None else torch.randperm(length, generator=_generator(seed, epoch))


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed("order", seed, epoch))
