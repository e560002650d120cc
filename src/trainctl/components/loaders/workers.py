"""Batches from data that does not fit on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, tee
from typing import Literal, cast

import torch
from torch import Tensor, nn

from trainctl.components.loaders._copier import Copier
from trainctl.data import ItemSplit, Split
from trainctl.data.augmentation import Augment
from trainctl.data.inputs import Inputs, unpacked
from trainctl.data.mixing import Mix
from trainctl.data.order import Order, Windows, epoch_order
from trainctl.data.sampler import Sampling, Share, cursor_after
from trainctl.data.types import is_sampled, targets_of_batch
from trainctl.data.worker_pool import Feed
from trainctl.errors import ConfigError
from trainctl.registry import LOADERS, Count, NonNegativeInt, Positive
from trainctl.registry.protocols import START, Batch, Cursor

_BLOCK = 2**16
"""Samples whose numbers are looked up together, and copied to the device."""


@dataclass(frozen=True)
class _Step:
    """A batch of this process to make.

    Attributes:
        index, on_device: the samples' numbers and, below them, those that seed, (2, N), on the CPU and there.
        position, count: where the batch of all processes begins, and how many samples it has.
        after: where the next one begins.
    """

    index: Tensor
    on_device: Tensor
    position: int
    count: int
    after: Cursor


@LOADERS.register("workers")
class WorkersLoader:
    """Batches that worker processes make ahead, sample by sample, and copy to the device.

    The order, the cursor and every batch are the same for any number of workers, none included.

    Args:
        split: items, their targets, and how to load one.
        transform: applied to a batch of raw inputs, on the device.
        seed: with the epoch's number it decides the order; None keeps the stored order.
        augment: applied before the transform to raw inputs and their targets, given the samples' numbers,
            or their places in the order of ``sampling``, and the epoch.
        workers: processes; 0 loads in the training process; auto: one a core, at most 8, none for a few
            hundred samples, or those that all load in a second.
        prefetch: batches that each worker makes ahead.
        timeout: seconds without a batch after which the workers count as hung (exit 8).
        share: of this process among those that train one model; its workers load nothing else.
        sampling: what an epoch draws; None: each sample once.
        mix: mixes the samples of each batch after the transform.

    Raises ConfigError for a sample that cannot be loaded, WorkerError where a worker died or hangs.
    """

    def __init__(
        self,
        split: ItemSplit,
        transform: nn.Module,
        batch_size: int,
        device: torch.device,
        seed: int | None,
        augment: Augment | None = None,
        workers: NonNegativeInt | Literal["auto"] = "auto",
        prefetch: Count = 2,
        timeout: Positive = 120.0,
        share: Share | None = None,
        sampling: Sampling | None = None,
        mix: Mix | None = None,
    ) -> None:
        if isinstance(split, Split):
            raise ConfigError(
                "loader=workers: this dataset is in memory, there is nothing for workers to load",
                "use loader=auto, or loader=resident",
            )
        self.split, self.transform, self.augment = split, transform, augment
        self.batch_size, self.device, self.seed = batch_size, device, seed
        self.share = share = share or Share()
        self.sampling, self.mix = sampling, mix
        begin, end = share.bounds(share.rank, batch_size)
        self._neighbour = mix is not None and share.size > 1
        self.feed = Feed(
            split,
            end - begin + self._neighbour,
            seed,
            workers=workers,
            prefetch=prefetch,
            timeout=timeout,
            pin=device.type == "cuda",
            sharing=share.neighbours,
        )
        self._targets = None if is_sampled(split) else split.targets.to(device)
        self._copied = Copier(device)

    def __len__(self) -> int:
        """Batches an epoch; the last one may be smaller."""
        return -(-len(self.split) // self.batch_size)

    @property
    def samples(self) -> int:
        return len(self.split)

    @property
    def note(self) -> str:
        """What people are told of how batches are made."""
        workers = self.feed.workers
        if workers == 0:
            return "workers: none, samples are loaded in this process"
        return f"workers: {workers} process{'es' if workers > 1 else ''} make batches ahead"

    def batches(self, cursor: Cursor = START) -> Iterator[Batch]:
        """The batches of the cursor's epoch from its position on."""
        epoch = cursor.epoch
        order = epoch_order(len(self.split), self.seed, epoch, self.sampling, self.split.chunks)
        asked, steps = tee(self._steps(order, cursor))
        batches = self.feed.batches((step.index for step in asked), epoch)
        for raw, step in zip(batches, steps, strict=True):
            numbers, draws = step.on_device
            if self._targets is None:
                raw, targets = unpacked(cast(Inputs, raw))
                targets = self._copied(targets_of_batch(self.split, targets))
            else:
                targets = self._targets.index_select(0, numbers)
            inputs = self._copied(raw)
            if self.augment is not None:
                inputs, targets = self.augment.both(inputs, targets, draws, epoch)
            self.share.taken(step.count)
            batch = self.transform(inputs), targets
            if self.mix is not None:
                batch = self.mix(*batch, epoch, step.position, neighbour=self._neighbour)
            yield Batch(*batch, step.count, step.after)

    def _steps(self, order: Order, cursor: Cursor) -> Iterator[_Step]:
        """The batches of this process, made block by block: all numbers of an epoch may be too many."""
        begun, own = -1, self._own(cursor)
        ahead = getattr(self.split.load, "ahead", None) if isinstance(order, Windows) else None
        while block := list(islice(own, max(1, _BLOCK // self.batch_size))):
            places = torch.cat([each for each, *_ in block])
            numbers = order[places]
            index = torch.stack((numbers, numbers if self.sampling is None else places))
            lengths = [len(each) for each, *_ in block]
            here, there = (torch.split(each, lengths, 1) for each in (index, index.to(self.device)))
            for part, on_device, (_, position, count, after) in zip(here, there, block, strict=True):
                if ahead is not None and isinstance(order, Windows):
                    window = order.window(position)
                    if window > begun:
                        ahead([*order.runs(window), *order.runs(window + 1)])
                        begun = window
                yield _Step(part, on_device, position, count, after)

    def _own(self, cursor: Cursor) -> Iterator[tuple[Tensor, int, int, Cursor]]:
        """Of each batch of this process: its places in the order, where that of all processes begins, how
        many samples that has, and where the next batch begins."""
        epoch, samples = cursor.epoch, len(self.split)
        while cursor.epoch == epoch and cursor.position < samples:
            position, count = cursor.position, min(self.batch_size, samples - cursor.position)
            places = self.share.places(position, self.batch_size, count, neighbour=self._neighbour)
            cursor = cursor_after(cursor, count, samples)
            if len(places):
                yield places, position, count, cursor

    def close(self) -> None:
        """End the worker processes."""
        self.feed.close()
