"""What every way trains: data as raw arrays, and the network. Imported by each of them; no training here.

A way prints ``step 1`` when its first step is done and, at its end, a line of JSON with its steady speed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

WARM_UP = 50


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def arrays(work: str, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Inputs as stored, and targets."""
    if work.startswith("mnist"):
        return _idx(data / "train-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28), _idx(
            data / "train-labels-idx1-ubyte.gz", 8
        ).astype(np.int64)
    stored = np.load(data / f"{work.partition('_')[0]}.npz")
    return stored["x"], stored["y"]


def _idx(path: Path, header: int) -> np.ndarray:
    with gzip.open(path) as file:
        return (
            np.frombuffer(file.read(), np.uint8, offset=header)
            .copy()
            .reshape(-1, *([784] if header == 16 else []))
        )


def items(work: str, data: Path) -> Dataset:
    """Samples that are made one by one, as torchvision's datasets make them."""
    from torchvision import datasets, transforms

    if work == "images":
        steps = [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()]
        return datasets.ImageFolder(str(data / "images"), transforms.Compose(steps))
    steps = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    return datasets.MNIST(str(data.parents[1]), train=True, transform=transforms.Compose(steps))


def loader_options(work: str) -> dict[str, Any]:
    """What one gives a DataLoader: workers where samples are decoded."""
    options: dict[str, Any] = {"batch_size": 64, "shuffle": True}
    return {**options, "num_workers": 2, "persistent_workers": True} if work == "images" else options


def normalized(work: str, inputs: np.ndarray) -> torch.Tensor:
    """Inputs as the network takes them: pixels standardized, the rest as it is."""
    tensor = torch.from_numpy(inputs)
    if work.startswith("mnist"):
        return (tensor.float() / 255 - 0.1307) / 0.3081
    return (tensor.float() - tensor.float().mean()) / tensor.float().std()


def network(work: str) -> nn.Module:
    """784-128-64-10 with dropout, LeNet-5, or the network of the work's name."""
    if work == "mnist_mlp":
        return nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.1)),
            *(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1)),
            nn.Linear(64, 10),
        )
    if work == "mnist_lenet":
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )
    if work == "digits_mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    if work == "table_mlp":
        return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    if work == "images":
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2))
    return nn.Linear(1, 1)


def criterion(work: str) -> nn.Module:
    return nn.MSELoss() if work.startswith(("table", "line")) else nn.CrossEntropyLoss()


class Clock:
    """Says when the first step is done, and how fast the later ones were."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done, self.started = steps, 0, 0.0

    def step(self) -> bool:
        """To be called after each step; True when there have been enough."""
        self.done += 1
        if self.done == 1:
            print("step 1", flush=True)
        elif self.done == WARM_UP:
            self.started = time.perf_counter()
        return self.done >= self.steps

    def end(self, **versions: str) -> None:
        seconds = time.perf_counter() - self.started
        print()  # ends the line of a progress bar
        print(
            json.dumps(
                {
                    "steps_per_second": (self.done - WARM_UP) / seconds if self.done > WARM_UP else None,
                    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                    "versions": {"torch": torch.__version__, **versions},
                }
            ),
            flush=True,
        )
