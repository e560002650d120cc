"""Batches made one sample at a time by the data loading of trainctl.lessons.scratch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch
from torch import Tensor, nn

from trainctl.data import ItemSplit, Split
from trainctl.data.augmentation import Augment
from trainctl.data.inputs import Inputs
from trainctl.data.order import epoch_order
from trainctl.data.sampler import cursor_after, derived_seed
from trainctl.errors import ConfigError, TrainctlError
from trainctl.lessons import scratch
from trainctl.registry import LOADERS
from trainctl.registry.protocols import START, Batch, Cursor


@LOADERS.register("scratch")
class ScratchLoader:
    """Dataset, sampler, collate and loader of trainctl.lessons.scratch, one sample at a time.

    Batches are those of ``resident``; a dataset's ``load`` draws new random numbers each epoch, as with
    ``workers``. Much slower than either.

    Args:
        split: raw inputs and targets, or items that are loaded one by one.
        transform: applied to a batch of raw inputs, on the device.
        seed: with the epoch's number it decides the order; None keeps the stored order.
        augment: applied before the transform to raw inputs and their targets, given the samples' numbers and
            the epoch.

    Raises ConfigError for a sample that cannot be loaded, or differs from the others in shape or type.
    """

    note = "scratch: one sample at a time, in plain Python"

    def __init__(
        self,
        split: Split | ItemSplit,
        transform: nn.Module,
        batch_size: int,
        device: torch.device,
        seed: int | None,
        augment: Augment | None = None,
    ) -> None:
        self.split, self.transform, self.augment = split, transform, augment
        self.batch_size, self.device, self.seed = batch_size, device, seed

    def __len__(self) -> int:
        """Batches an epoch; the last one may be smaller."""
        return -(-len(self.split) // self.batch_size)

    @property
    def samples(self) -> int:
        return len(self.split)

    def batches(self, cursor: Cursor = START) -> Iterator[Batch]:
        """The batches of the cursor's epoch from its position on."""
        epoch = cursor.epoch
        dataset = self._dataset(epoch)
        chunks = getattr(self.split, "chunks", None)
        order = epoch_order(len(dataset), self.seed, epoch, chunks=chunks)[cursor.position :]
        sampler = scratch.Sampler(len(dataset), order.tolist())
        loader = scratch.DataLoader(dataset, sampler, self.batch_size, scratch.collate)
        # Not strict: no samples at all are one empty part for torch.split.
        for index, (inputs, targets) in zip(torch.split(order, self.batch_size), loader, strict=False):
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            if self.augment is not None:
                inputs, targets = self.augment.both(inputs, targets, index.to(self.device), epoch)
            cursor = cursor_after(cursor, len(index), len(dataset))
            yield Batch(self.transform(inputs), targets, len(index), cursor)

    def _dataset(self, epoch: int) -> scratch.Dataset:
        if isinstance(self.split, ItemSplit):
            return _Items(self.split, self.seed, epoch)
        return scratch.Dataset(self.split.inputs, self.split.targets)


class _Items(scratch.Dataset):
    """Samples that are loaded on access; (seed, epoch, sample) seeds the random numbers of ``load``."""

    def __init__(self, split: ItemSplit, seed: int | None, epoch: int) -> None:
        super().__init__(split.items, split.targets)
        self._load, self._seed, self._epoch = split.load, seed, epoch
        self._first: Tensor | None = None

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        item, target = super().__getitem__(number)
        with _seeded(derived_seed("sample", self._seed, self._epoch, number)):
            try:
                sample = self._load(item)
            except TrainctlError:
                raise
            except Exception as error:
                reason = str(error).partition("\n")[0]
                raise ConfigError(f"{item} cannot be loaded: {type(error).__name__}: {reason}") from error
        if isinstance(sample, Inputs):
            raise ConfigError("loader=scratch: samples have several inputs", "use loader=auto")
        if not isinstance(sample, Tensor):
            raise ConfigError(f"{item} was loaded as {type(sample).__name__}, not as a tensor")
        if self._first is None:
            self._first = sample
        if (sample.shape, sample.dtype) != (self._first.shape, self._first.dtype):
            raise ConfigError(
                f"{item} has shape {tuple(sample.shape)} {sample.dtype},"
                f" others have {tuple(self._first.shape)} {self._first.dtype}",
                "all samples of a dataset must have the same shape and type",
            )
        return sample, target


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's random numbers for the block; restore their states after it."""
    before = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    # Not torch.manual_seed, which would seed the GPU's generators, too.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        numpy.random.set_state(before[1])
        torch.set_rng_state(before[2])
