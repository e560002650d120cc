"""Accumulated batches give the gradient, the loss and the step of the whole window."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from trainctl.config.settings import Component
from trainctl.training.construct import construct
from trainctl.training.loop import train_step
from trainctl.training.steps.accumulated import accumulated_step

WINDOW = 22


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3))


@pytest.mark.parametrize("batches", [1, 2, 4])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 7.0]], ids=["plain", "class weights"])
def test_the_gradient_is_that_of_the_full_batch(batches: int, weights: list[float] | None) -> None:
    inputs = torch.randn(WINDOW, 5, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(WINDOW) % 3
    arguments = {} if weights is None else {"class_weights": weights}
    criterion = construct(Component("loss", "cross_entropy", arguments), class_counts=torch.tensor([8, 7, 7]))
    whole, parts = network(), network()
    # 22 samples in 1, 2 or 4 batches: the last one is smaller.
    size = -(-WINDOW // batches)
    losses = [
        train_step(
            whole, criterion, torch.optim.SGD(whole.parameters(), lr=0.5), inputs, targets, nullcontext()
        ),
        accumulated_step(
            parts,
            criterion,
            torch.optim.SGD(parts.parameters(), lr=0.5),
            inputs,
            targets,
            nullcontext(),
            cut=lambda window: torch.split(window, size),
        ),
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-6)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
        assert torch.allclose(one, other, atol=1e-6)


def test_an_accumulated_run_equals_one_with_the_large_batch(trainctl, tmp_path: Path) -> None:
    common = ("threads=1", "epochs=2", "seed=4")
    assert trainctl(*common, "batch_size=64", "hydra.run.dir=large").code == 0
    outcome = trainctl(*common, "batch_size=16", "train.accumulate=4", "hydra.run.dir=small")
    assert outcome.code == 0
    assert "batches of 16 × 4" in outcome.out
    losses = [
        [
            json.loads(line)["train/loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            if "train/loss" in line
        ]
        for name in ("large", "small")
    ]
    assert len(losses[0]) == len(losses[1]) == 40
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
