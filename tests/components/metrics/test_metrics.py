"""Where numbers go wrong that scikit-learn is not compared on: large, constant, absent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.components.metrics.test_scikit_learn import feed, make
from trainctl.components.metrics.mae import MeanAbsoluteError
from trainctl.components.metrics.mse import MeanSquaredError
from trainctl.components.metrics.r2 import R2
from trainctl.registry import METRICS, TASKS

SIZES = [5, 40, 2, 17]


def regression(offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(64, 3, generator=generator) * torch.arange(1, 4) + offset
    return targets + 0.5 * torch.randn(64, 3, generator=generator), targets


@pytest.mark.parametrize("offset", [1e5, -1e5])
def test_r2_does_not_cancel_at_large_offsets(offset: float) -> None:
    """A sum of squares minus a square of sums would lose every digit here."""
    outputs, targets = (each.double() for each in regression(offset))
    error, deviation = (outputs - targets).square().sum(0), (targets - targets.mean(0)).square().sum(0)
    expected = float((1 - error / deviation).mean())
    assert 0.5 < expected < 1
    assert feed(R2(), (outputs.float(), targets.float()), SIZES) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.3e7])
def test_targets_that_do_not_vary_have_no_r2(constant: float) -> None:
    targets = torch.full((64, 1), constant)
    assert math.isnan(feed(R2(), (targets.clone(), targets), SIZES))
    assert math.isnan(feed(R2(), (targets + 1, targets), SIZES))


def test_one_constant_output_leaves_no_mean_of_r2() -> None:
    outputs, targets = regression()
    targets[:, 1] = 4.2
    assert math.isnan(feed(R2(), (outputs, targets), SIZES))


@pytest.mark.parametrize(("metric", "power"), [(MeanSquaredError, 2), (MeanAbsoluteError, 1)])
def test_a_mean_sums_in_double_precision(metric: type, power: int) -> None:
    """In float32 a sum of 2**25 ones stops growing at 2**24."""
    each = metric()
    batch = torch.full((2**20, 1), 3.0), torch.zeros(2**20, 1)
    for _ in range(33):
        each.update(*batch)
    assert each.compute() == 3.0**power


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_of_nothing_has_no_value(name: str) -> None:
    value = make(name).compute()
    assert value == {} or math.isnan(value)


@pytest.mark.parametrize("metric", [R2, MeanSquaredError, MeanAbsoluteError])
def test_a_split_with_a_value_that_is_not_a_number_is_not_a_number(metric: type) -> None:
    outputs, targets = regression()
    outputs[10] = math.nan
    assert math.isnan(feed(metric(), (outputs, targets), SIZES))


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_says_its_task_and_its_direction(name: str) -> None:
    metric = METRICS.load(name)
    assert metric.task in TASKS.names()  # type: ignore[attr-defined]
    lower = metric.lower_is_better  # type: ignore[attr-defined]
    assert type(lower) is bool
    # Some of each: a new metric is no change of this file.
    known = {
        **dict.fromkeys(("mse", "mae", "perplexity"), True),
        **dict.fromkeys(("accuracy", "f1", "r2"), False),
    }
    assert lower is known.get(name, lower)
