from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Literal

import torch
from torch import Tensor, nn

from trainctl.components.loaders._base import SplitLoader
from trainctl.data import AnySplit, ItemSplit, Split
from trainctl.data.sampler import cursor_after, epoch_order
from trainctl.registry import LOADERS, Count, NonNegativeInt, Positive
from trainctl.registry.protocols import START, Batch, Cursor


@LOADERS.register("resident")
class ResidentLoader(SplitLoader):
    """A split on the device; a batch is one indexed gather and one transform for all of its samples.

    Samples that are made one by one are all loaded first, once: then every epoch sees what ``load`` drew the
    first time.

    Args:
        workers: processes that load items; 0 loads in the training process.
        prefetch: batches that each worker makes ahead.
        timeout: seconds without a batch after which the workers count as hung (exit 8).
    """

    split: Split

    def __init__(
        self,
        split: AnySplit,
        transform: nn.Module,
        batch_size: int,
        device: torch.device,
        seed: int | None,
        augment: Callable[[Tensor, Tensor, int], Tensor] | None = None,
        workers: NonNegativeInt | Literal["auto"] = "auto",
        prefetch: Count = 2,
        timeout: Positive = 120.0,
    ) -> None:
        self.note = "resident"
        if isinstance(split, ItemSplit):
            # Only here: a run whose data is in memory does not import the worker processes.
            from trainctl.data.worker_pool import Feed

            feed = Feed(split, batch_size, seed, workers=workers, prefetch=prefetch, timeout=timeout)
            with closing(feed):
                split = Split(feed.all(), split.targets)
            self.note = "resident: samples were loaded once"
        super().__init__(split.to(device), transform, batch_size, device, seed, augment)

    def batches(self, cursor: Cursor = START) -> Iterator[Batch]:
        """The batches of the cursor's epoch from its position on."""
        inputs, targets, size, epoch = self.split.inputs, self.split.targets, self.batch_size, cursor.epoch
        order = None if self.seed is None else epoch_order(len(targets), self.seed, epoch).to(self.device)
        for start in range(cursor.position, len(targets), size):
            if order is None:
                raw, answers = inputs[start : start + size], targets[start : start + size]
            else:
                index = order[start : start + size]
                raw, answers = inputs.index_select(0, index), targets.index_select(0, index)
                if self.augment is not None:
                    raw = self.augment(raw, index, epoch)
            cursor = cursor_after(cursor, len(answers), len(targets))
            yield Batch(self.transform(raw), answers, len(answers), cursor)
