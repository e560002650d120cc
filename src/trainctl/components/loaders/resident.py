"""Batches from data that lies on the training device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from trainctl.data import ItemSplit, Split
from trainctl.data.augmentation import Augment
from trainctl.data.mixing import Mix
from trainctl.data.order import epoch_order
from trainctl.data.sampler import Sampling, Share, cursor_after
from trainctl.registry import LOADERS, Count, NonNegativeInt, Positive
from trainctl.registry.protocols import START, Batch, Cursor

__all__ = ["ResidentLoader", "epoch_order"]

_LAUNCHED = ("cuda",)
"""Devices on which a small batch waits for its operations: to launch one takes longer than to do it."""
_CHUNK = 8192
_PIECES = 1024
_SPARE = 0.1
"""The part of the device's free memory that transformed inputs may take."""


@LOADERS.register("resident")
class ResidentLoader:
    """A split on the device; a batch is one indexed gather and one transform for all of its samples.

    Per-sample Python is what makes the usual DataLoader slow; here there is none. Samples that are made one
    by one are all loaded first, once: then every epoch sees what ``load`` drew the first time.

    Args:
        split: raw inputs and targets, or items that are loaded once.
        transform: applied to a batch of raw inputs, on the device.
        seed: with the epoch's number it decides the order; None keeps the stored order.
        augment: applied before the transform to raw inputs and their targets, given the samples' numbers,
            or their places in the order of ``sampling``, and the epoch.
        workers: processes that load items; 0 loads in the training process.
        prefetch: batches that each worker makes ahead.
        timeout: seconds without a batch after which the workers count as hung (exit 8).
        share: of this process among those that train one model; each of them holds the whole split.
        sampling: what an epoch draws; None: each sample once.
        mix: mixes the samples of each batch after the transform.
    """

    def __init__(
        self,
        split: Split | ItemSplit,
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
        self.note, self._chunks = "resident", getattr(split, "chunks", None)
        if isinstance(split, ItemSplit):
            split = _loaded(split, batch_size, seed, workers, prefetch, timeout)
            self.note = "resident: samples were loaded once"
        self.split = split.to(device)
        self.transform, self.augment = transform, augment
        self.batch_size = batch_size
        self.device = device
        self.seed, self.share = seed, share or Share()
        self.sampling, self.mix = sampling, mix

    def __len__(self) -> int:
        """Batches an epoch; the last one may be smaller."""
        return -(-len(self.split) // self.batch_size)

    @property
    def samples(self) -> int:
        return len(self.split)

    @cached_property
    def _inputs(self) -> Tensor | None:
        """All inputs transformed, where a batch of them is worth it. Made for the first batch: models that
        train as one have a loader each, and use one of them."""
        row_wise = getattr(self.transform, "row_wise", False)
        if self.augment is None and self.device.type in _LAUNCHED and row_wise:
            return _transformed(self.split.inputs, self.transform)
        return None

    def reuse(self) -> Reused | None:
        """The same batches in tensors that are used again; None where that is not possible."""
        if self._inputs is None or self.seed is None or self.share.size > 1 or self.mix is not None:
            return None
        return Reused(self, self._inputs)

    def batches(self, cursor: Cursor = START) -> Iterator[Batch]:
        """The batches of the cursor's epoch from its position on."""
        return self._batches(cursor, None)

    def _batches(self, cursor: Cursor, reused: Reused | None) -> Iterator[Batch]:
        inputs, targets, size = self.split.inputs, self.split.targets, self.batch_size
        total = len(targets)  # to ask a tensor takes a microsecond or two each time
        transform = self.transform
        if self._inputs is not None:
            inputs, transform = self._inputs, nn.Identity()
        epoch, order = cursor.epoch, None
        pieces: Iterator[Tensor] = iter(())
        if self.seed is not None:
            order = epoch_order(total, self.seed, epoch, self.sampling, self._chunks)[:].to(self.device)
            pieces = _pieces(order[cursor.position :], size)
        while cursor.epoch == epoch and cursor.position < total:
            position, count = cursor.position, min(size, total - cursor.position)
            start, end = (position + bound for bound in self.share.bounds(position // size, count))
            cursor = cursor_after(cursor, count, total)
            if start == end:
                next(pieces, None)
                continue
            if order is None:
                # Copies: a model may change its inputs in place.
                raw, answers = inputs[start:end].clone(), targets[start:end].clone()
            else:
                index = next(pieces)
                if self.sampling is not None or self.mix is not None:
                    places = self.share.places(position, size, count, neighbour=self.mix is not None)
                    places = places.to(self.device)
                    index = order[places]
                elif self.share.size > 1:
                    index = index[start - position : end - position]
                if reused is not None and count == size:
                    reused.index.copy_(index)
                    yield Batch(reused.inputs, reused.targets, count, cursor)
                    continue
                raw, answers = inputs.index_select(0, index), targets.index_select(0, index)
                if self.augment is not None:
                    numbers = index if self.sampling is None else places
                    raw, answers = self.augment.both(raw, answers, numbers, epoch)
            self.share.taken(count)
            batch = transform(raw), answers
            if self.mix is not None:
                batch = self.mix(*batch, epoch, position, neighbour=self.share.size > 1)
            yield Batch(*batch, count, cursor)


def _pieces(order: Tensor, size: int) -> Iterator[Tensor]:
    """The order in pieces of ``size``; many at once, because to cut off one takes several microseconds."""
    for several in torch.split(order, _PIECES * size):
        yield from torch.split(several, size)


class Reused:
    """Batches of full size in the same two tensors, for work that is recorded once and launched again.

    :meth:`batches` gives only the numbers of a batch's samples; :meth:`fill`, which can be recorded, brings
    the samples themselves. Smaller batches are whole, in tensors of their own.
    """

    def __init__(self, loader: ResidentLoader, inputs: Tensor) -> None:
        self._loader, self._inputs, self._targets = loader, inputs, loader.split.targets
        self.index = torch.arange(min(loader.batch_size, len(inputs)), device=loader.device)
        self.inputs, self.targets = (
            each.index_select(0, self.index) for each in (self._inputs, self._targets)
        )

    def batches(self, cursor: Cursor) -> Iterator[Batch]:
        """As the loader's; a batch of full size is valid after :meth:`fill`, until the next."""
        return self._loader._batches(cursor, self)

    def fill(self) -> None:
        """Bring the samples of the newest batch of full size."""
        torch.index_select(self._inputs, 0, self.index, out=self.inputs)
        torch.index_select(self._targets, 0, self.index, out=self.targets)


def _transformed(inputs: Tensor, transform: nn.Module) -> Tensor | None:
    """All of ``transform(inputs)``, on their device; None where they would take much of its memory."""
    first: Tensor = transform(inputs[:1])
    size = first.numel() * first.element_size() * len(inputs)
    if inputs.is_cuda and size > _SPARE * torch.cuda.mem_get_info(inputs.device)[0]:
        return None
    whole = first.new_empty((len(inputs), *first.shape[1:]))
    for start in range(0, len(inputs), _CHUNK):
        whole[start : start + _CHUNK] = transform(inputs[start : start + _CHUNK])
    return whole


def _loaded(
    split: ItemSplit,
    batch_size: int,
    seed: int | None,
    workers: int | Literal["auto"],
    prefetch: int,
    timeout: float,
) -> Split:
    # Only here: the machinery of processes is no part of a run whose data is in memory.
    from trainctl.data.worker_pool import Feed

    feed = Feed(split, batch_size, seed, workers=workers, prefetch=prefetch, timeout=timeout)
    try:
        return Split(feed.all(), split.targets)
    finally:
        feed.close()
