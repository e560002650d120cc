"""The part of a loader that does not depend on where the samples are."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainctl.data import AnySplit


class SplitLoader:
    """A split in batches. A subclass defines ``note`` and ``batches``.

    Args:
        split: raw inputs and targets, or items that are loaded one by one.
        transform: applied to a batch of raw inputs, on the device.
        seed: with the epoch's number it decides the order; None keeps the stored order.
        augment: applied before the transform to raw inputs, given the samples' numbers and the epoch.
    """

    def __init__(
        self,
        split: AnySplit,
        transform: nn.Module,
        batch_size: int,
        device: torch.device,
        seed: int | None,
        augment: Callable[[Tensor, Tensor, int], Tensor] | None,
    ) -> None:
        self.split, self.transform, self.augment = split, transform, augment
        self.batch_size, self.device, self.seed = batch_size, device, seed

    def __len__(self) -> int:
        """Batches an epoch; the last one may be smaller."""
        return -(-len(self.split) // self.batch_size)

    @property
    def samples(self) -> int:
        return len(self.split)
