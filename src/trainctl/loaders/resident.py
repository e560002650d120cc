"""Batches from data that lies on the training device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainctl.data import Split


def epoch_order(length: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: a permutation of ``range(length)`` that only ``seed`` and ``epoch`` decide.

    Shape: (length,) int64, on the CPU, so that it is the same for every device.
    """
    digest = hashlib.sha256(f"order {seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randperm(length, generator=generator)


class ResidentLoader:
    """A split on the device; a batch is one indexed gather and one transform for all of its samples.

    Per-sample Python is what makes the usual DataLoader slow; here there is none.

    Args:
        split: raw inputs and targets.
        transform: applied to a batch of raw inputs, on the device.
        seed: with the epoch's number it decides the order; None keeps the stored order.
    """

    def __init__(
        self, split: Split, transform: nn.Module, batch_size: int, device: torch.device, seed: int | None
    ) -> None:
        self.split = split.to(device)
        self.transform = transform
        self.batch_size = batch_size
        self.device = device
        self.seed = seed

    def __len__(self) -> int:
        """Batches an epoch; the last one may be smaller."""
        return -(-len(self.split) // self.batch_size)

    @property
    def samples(self) -> int:
        return len(self.split)

    def batches(self, epoch: int = 0, position: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of ``epoch`` from the sample at ``position`` of its order on."""
        inputs, targets, size = self.split.inputs, self.split.targets, self.batch_size
        if self.seed is None:
            for start in range(position, len(targets), size):
                yield self.transform(inputs[start : start + size]), targets[start : start + size]
            return
        order = epoch_order(len(targets), self.seed, epoch).to(self.device)
        for start in range(position, len(targets), size):
            index = order[start : start + size]
            yield self.transform(inputs.index_select(0, index)), targets.index_select(0, index)
