"""Time and memory of starting an epoch of very many samples: ``python benchmarks/virtual.py 1e9 0.1``."""

from __future__ import annotations

import resource
import sys
import time

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainctl.components.loaders.workers import WorkersLoader
from trainctl.components.tasks._base import with_targets
from trainctl.data.map_style import from_datasets
from trainctl.data.types import ItemSplit, hold_out


class Virtual(Dataset[tuple[Tensor, int]]):
    """Samples that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index % 7 / 7, index % 5 / 5]), index % 2


def memory() -> float:
    """The most that this process has used, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    count, val = int(float(sys.argv[1])), float(sys.argv[2])
    before, started = memory(), time.perf_counter()
    data = hold_out(with_targets(from_datasets(Virtual(count), "virtual")), val, 0)
    read = time.perf_counter()
    assert isinstance(data.train, ItemSplit)
    loader = WorkersLoader(data.train, data.transform, 64, torch.device("cpu"), 0, workers=0)
    batches = loader.batches()
    next(batches)
    first = time.perf_counter()
    for _ in range(20):
        next(batches)
    each = (time.perf_counter() - first) / 20
    print(
        f"{count:,} val={val}: data {read - started:.2f} s, first batch {first - read:.2f} s,"
        f" batch of 64 {1000 * each:.1f} ms, +{memory() - before:.0f} MB"
    )


if __name__ == "__main__":
    main()
