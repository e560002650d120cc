"""Cohen's kappa equals scikit-learn's, on random cases and at the edges."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.configs import changed, problems_of
from trainctl.components.metrics.cohen_kappa import CohenKappa
from trainctl.config.validation import check

WEIGHTS: list[Any] = [None, "linear", "quadratic"]


def computed(outputs: Tensor, targets: Tensor, weights: Any) -> float:
    """The metric of batches that several objects get, merged."""
    merged = CohenKappa(outputs.shape[1], weights)
    for one, other in zip(outputs.split(7), targets.split(7), strict=True):
        part = CohenKappa(outputs.shape[1], weights)
        part.update(one, other)
        merged.merge(part)
    return merged.compute()


@pytest.mark.slow  # importing scikit-learn
@pytest.mark.parametrize("weights", WEIGHTS)
def test_random_cases_equal_scikit_learn(weights: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        outputs = torch.randn(53, 6, generator=draw).round()  # with ties
        targets = torch.randint(6, (53,), generator=draw)
        targets[targets == seed % 7] = 5  # in six of seven cases a class is absent
        outputs[torch.arange(53), targets] += 1
        outputs[:, (seed + 1) % 7 % 6] -= 9  # never predicted
        expected = metrics.cohen_kappa_score(targets, outputs.argmax(1), labels=range(6), weights=weights)
        assert computed(outputs, targets, weights) == pytest.approx(float(expected), abs=1e-12), seed


@pytest.mark.parametrize("weights", WEIGHTS)
def test_edges(weights: Any) -> None:
    eye = torch.eye(3)
    assert math.isnan(CohenKappa(3, weights).compute())
    assert math.isnan(computed(eye[[1, 1]], torch.tensor([1, 1]), weights))
    assert computed(eye[[0, 1, 2]], torch.tensor([0, 1, 2]), weights) == 1
    assert computed(eye[[0, 0]], torch.tensor([0, 1]), weights) == 0  # always the same: no better than chance
    assert computed(eye[[2, 0]], torch.tensor([0, 2]), weights) == pytest.approx(-1)


def test_a_larger_distance_costs_more() -> None:
    eye, targets = torch.eye(4), torch.tensor([0, 1, 2, 3])
    near, far = eye[[1, 1, 2, 3]], eye[[3, 1, 2, 3]]
    assert computed(near, targets, None) == computed(far, targets, None)
    assert computed(near, targets, "quadratic") > computed(far, targets, "quadratic")


def test_other_weights_are_refused() -> None:
    given = changed("train.metrics", [{"cohen_kappa": {"weights": "cubic"}}])
    assert "train.metrics.cohen_kappa.weights=cubic: must be" in problems_of(given)[0].message
    assert check(changed("train.metrics", [{"cohen_kappa": {"weights": "quadratic"}}])).metrics


@pytest.mark.gpu
def test_on_a_device_a_batch_is_not_waited_for() -> None:
    outputs = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    targets = outputs.roll(1, 1).argmax(1)
    metric, on_device = CohenKappa(6), (outputs.cuda(), targets.cuda())
    try:
        with warnings.catch_warnings(action="ignore"):  # it says that it is a prototype
            torch.cuda.set_sync_debug_mode("error")
        metric.update(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode(0)
    assert metric.compute() == computed(outputs, targets, None)
