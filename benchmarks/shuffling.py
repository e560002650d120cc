"""What it costs in randomness to mix windows of shards instead of all samples.

    python benchmarks/shuffling.py --mnist DIR [--seeds 5]    # DIR holds MNIST/raw

MNIST's 60,000 training digits in 60 shards, once written in random order and once sorted by class: the best
and the worst that shards can be. An MLP trains for two epochs in each order. Printed are how far the mix of
classes of a batch of 64 is from that of all samples (total variation, the mean of all batches), and the test
accuracy (mean and standard deviation over seeds).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor, nn

from trainctl.components.datasets.mnist import mnist
from trainctl.data import Split
from trainctl.data.order import Chunks, epoch_order

SHARDS, BATCH, EPOCHS = 60, 64, 2
WINDOWS = (0, 32, 16, 8, 4, 2, 1)


def layouts(train: Split) -> dict[str, Split]:
    drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return {"random": train[drawn], "sorted": train[torch.argsort(train.targets, stable=True)]}


def order_of(samples: int, window: int, seed: int, epoch: int) -> Tensor:
    ends = torch.arange(1, SHARDS + 1) * samples // SHARDS
    return epoch_order(samples, seed, epoch, chunks=Chunks(ends, window) if window else None)[:]


def distance(targets: Tensor) -> float:
    """The mean distance of the batches' mix of classes from that of all."""
    whole = torch.bincount(targets, minlength=10) / len(targets)
    batches = targets[: len(targets) // BATCH * BATCH].view(-1, BATCH)
    mixes = nn.functional.one_hot(batches, 10).float().mean(1)
    return float((mixes - whole).abs().sum(1).mean() / 2)


def accuracy(train: Split, test: Split, window: int, seed: int) -> float:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for epoch in range(EPOCHS):
        for index in order_of(len(train), window, seed, epoch).split(BATCH):
            loss = nn.functional.cross_entropy(model(train.inputs[index] / 255), train.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return float((model(test.inputs / 255).argmax(1) == test.targets).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = mnist(root=str(asked.mnist))
    assert isinstance(data.train, Split)
    assert isinstance(data.test, Split)
    print("| shards that are mixed | layout | distance of a batch | test accuracy |\n|---|---|---|---|")
    for layout, train in layouts(data.train).items():
        for window in WINDOWS:
            mixed = distance(train.targets[order_of(len(train), window, 0, 0)])
            found = [accuracy(train, data.test, window, seed) for seed in range(asked.seeds)]
            mean, deviation = statistics.mean(found), statistics.stdev(found)
            print(
                f"| {window or f'all {SHARDS}'} | {layout} | {mixed:.3f} | {mean:.4f} ± {deviation:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
