"""The mean absolute error of class numbers equals scikit-learn's."""

from __future__ import annotations

import math

import pytest
import torch

from trainctl.components.metrics.ordinal_mae import OrdinalMAE


@pytest.mark.slow  # importing scikit-learn
def test_random_cases_equal_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(10):
        draw = torch.Generator().manual_seed(seed)
        outputs = torch.randn(53, 6, generator=draw).round()  # with ties
        targets = torch.randint(6, (53,), generator=draw).clamp(max=seed % 6)
        metric = OrdinalMAE()
        for one, other in zip(outputs.split(10), targets.split(10), strict=True):
            metric.update(one, other)
        assert metric.compute() == pytest.approx(metrics.mean_absolute_error(targets, outputs.argmax(1)))


def test_edges() -> None:
    assert math.isnan(OrdinalMAE().compute())
    metric = OrdinalMAE()
    metric.update(torch.eye(5)[[0, 4, 2]], torch.tensor([4, 0, 2]))
    assert metric.compute() == pytest.approx(8 / 3)
    assert metric.lower_is_better
