"""The run that the benchmarks of single parts have in common: the MNIST MLP on made-up data of its shape."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.optimizers._lean import make
from trainctl.data import Split, Standardize
from trainctl.training.hooks.guard import Guard
from trainctl.training.loop import train_step
from trainctl.training.run import Hook, Run

BATCH = 64


def network(dropout: float) -> nn.Sequential:
    """784-128-64-10."""
    hidden = [nn.Linear(784, 128), nn.ReLU(), nn.Dropout(dropout)]
    hidden += [nn.Linear(128, 64), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(
        *(layer for layer in hidden if dropout or not isinstance(layer, nn.Dropout)), nn.Linear(64, 10)
    )


def make_run(
    hooks: Sequence[Hook], device: torch.device, *, samples: int = 55_000, dropout: float = 0.1
) -> Run:
    """A run like the others but for its hooks: fused Adam, batch 64, no step yet to take."""
    torch.manual_seed(0)
    data = Split(torch.randn(samples, 784), torch.randint(0, 10, (samples,)))
    model = network(dropout).to(device)
    guard = next((hook for hook in hooks if isinstance(hook, Guard)), None)
    return Run(
        model=model,
        criterion=nn.CrossEntropyLoss(),
        optimizer=make(torch.optim.Adam, model.parameters(), lr=1e-3),
        scheduler=None,
        train_loader=ResidentLoader(data, Standardize(), BATCH, device, seed=0),
        val_loader=None,
        metrics={},
        precision=nullcontext(),
        total_steps=0,
        step=partial(train_step, guard=guard),
        hooks=[*hooks],
    )
