"""The thermometer: a line through eleven points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import trainctl as package
from trainctl.components.datasets.thermometer import thermometer


def test_the_readings() -> None:
    data = thermometer()
    assert (data.task, data.test, data.input_shape, data.output_size) == ("regression", None, (1,), 1)
    assert data.train.inputs.flatten().tolist() == pytest.approx(
        [35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4]
    )
    assert data.train.targets.flatten().tolist() == pytest.approx(
        [0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0]
    )
    assert data.transform(data.train.inputs)[0].item() == pytest.approx(3.57)


@pytest.mark.slow
def test_a_line_is_found_that_is_the_least_squares_one(trainctl) -> None:
    """Momentum reaches it; plain SGD ends at w = 5.3671, b = -17.3012 after the 5,000 epochs of the book."""
    outcome = trainctl(
        *("dataset=thermometer", "model=linear", "loss=mse", "optim=sgd_momentum", "batch_size=11"),
        *("epochs=900", "lr=0.01", "threads=1"),
    )
    assert outcome.code == 0, outcome.err
    weight, bias = (parameter.item() for parameter in package.load("last").parameters())
    train = thermometer().train
    rows = torch.cat([train.inputs * 0.1, torch.ones(11, 1)], dim=1)
    best = torch.linalg.lstsq(rows, train.targets).solution.flatten().tolist()
    assert [weight, bias] == pytest.approx(best, abs=2e-3)
    last = json.loads(Path("outputs/latest/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 900
    assert last["train/loss"] == pytest.approx(2.927648, abs=1e-4)
