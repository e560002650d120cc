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
