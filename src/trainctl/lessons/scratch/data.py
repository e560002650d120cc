"""Data loading: a dataset gives samples, a sampler their order, a loader batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class Dataset:
    """Samples by number: (input, target).

    Args:
        inputs, targets: tensors whose first dimension is N, or other sequences of N items.

    Raises ValueError unless there are as many targets as inputs.
    """

    def __init__(self, inputs: Tensor | Sequence[Any], targets: Tensor | Sequence[Any]) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs and {len(targets)} targets")
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return self.inputs[number], self.targets[number]


class Sampler:
    """The samples' numbers in an order: as they are stored, in a given order, or shuffled.

    Args:
        length: the number of samples.
        order: the numbers to return, in this order; they need not be all.
        seed: shuffle anew each time; the seed decides all of these orders.

    Raises ValueError for an order and a seed together.
    """

    def __init__(self, length: int, order: Iterable[int] | None = None, seed: int | None = None) -> None:
        if order is not None and seed is not None:
            raise ValueError("give either an order or a seed")
        self._order = list(range(length) if order is None else order)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        if self._generator is None:
            yield from self._order
        else:
            yield from torch.randperm(len(self._order), generator=self._generator).tolist()


def collate(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """A batch of samples: the first parts stacked, the second parts stacked, and so on.

    Shape: B samples of parts (…) → parts (B, …). Raises RuntimeError where samples differ in shape.
    """
    return tuple(torch.stack(parts) for parts in zip(*samples, strict=True))


class DataLoader:
    """Batches of a dataset in a sampler's order; the last one may be smaller.

    Args:
        dataset: gives a sample by number.
        sampler: the numbers, in order.
        batch_size: samples a batch.
        collate_fn: makes a batch of a list of samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler,
        batch_size: int,
        collate_fn: Callable[[list[Any]], Any] = collate,
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.batch_size, self.collate_fn = batch_size, collate_fn

    def __len__(self) -> int:
        """Batches an iteration gives: samples / batch_size, rounded up."""
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        samples: list[Any] = []
        for number in self.sampler:
            samples.append(self.dataset[number])
            if len(samples) == self.batch_size:
                yield self.collate_fn(samples)
                samples = []
        if samples:
            yield self.collate_fn(samples)
