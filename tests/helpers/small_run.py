"""A run of the loop that takes a moment, and a hook that writes down what happens in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.metrics.accuracy import Accuracy
from trainctl.data import Split, Standardize
from trainctl.training.loop import train_step
from trainctl.training.run import Hook, Run

CPU = torch.device("cpu")
FP32: Any = nullcontext()


def blobs(samples: int, seed: int = 0) -> Split:
    """Learnable classification data: six numbers, three classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 6, generator=generator)
    weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(99))
    return Split(inputs, (inputs @ weight).argmax(1))


def network(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def make_run(
    total_steps: int = 10,
    samples: int = 50,
    batch_size: int = 8,
    val: int = 20,
    lr: float = 0.1,
    hooks: Sequence[Hook] = (),
    dropout: float = 0.0,
) -> Run:
    """A small run: 50 samples in batches of 8 are 7 steps an epoch, the last one of 2."""
    torch.set_num_threads(1)  # more would wait for each other at this size
    model = network(dropout=dropout)
    return Run(
        model=model,
        criterion=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        scheduler=None,
        train_loader=ResidentLoader(blobs(samples), Standardize(), batch_size, CPU, seed=0),
        val_loader=ResidentLoader(blobs(val, 1), Standardize(), batch_size, CPU, None) if val else None,
        metrics={"accuracy": Accuracy},
        precision=FP32,
        total_steps=total_steps,
        step=train_step,
        hooks=list(hooks),
    )


def parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def all_equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


class Recorder(Hook):
    """Writes down every event and the cursor at it."""

    name = "recorder"

    def __init__(self) -> None:
        self.events: list[str] = []
        self.losses: list[float] = []
        self.cursors: list[tuple[int, int]] = []
        self.rates: list[float] = []
        self.values: list[dict[str, float]] = []

    def start(self, run: Run) -> None:
        self.events.append("start")

    def step(self, run: Run, loss: Tensor) -> None:
        self.events.append(f"step {run.state.step}")
        self.losses.append(loss.item())
        self.cursors.append((run.state.epoch, run.state.position))
        self.rates.append(run.state.lr)

    def poll(self, run: Run) -> None:
        self.events.append("poll")

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self.events.append(f"evaluated {run.state.epoch} {run.state.position}")
        self.values.append(dict(values))

    def end(self, run: Run) -> None:
        self.events.append("end")
