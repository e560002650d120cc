"""Every metric against the same thing computed by numpy in float64 over the whole split."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainctl.components.metrics.accuracy import Accuracy
from trainctl.components.metrics.mae import MeanAbsoluteError
from trainctl.components.metrics.mse import MeanSquaredError
from trainctl.components.metrics.r2 import R2
from trainctl.registry import METRICS

BATCHINGS = [[64], [1] * 64, [32, 32], [63, 1], [1, 63], [7] * 9 + [1], [5, 40, 2, 17], [60, 3, 1]]
Array = np.ndarray[Any, np.dtype[np.float64]]


def compute(metric: Any, outputs: Tensor, targets: Tensor, sizes: list[int]) -> float:
    assert sum(sizes) == len(targets)
    for some_outputs, some_targets in zip(outputs.split(sizes), targets.split(sizes), strict=True):
        metric.update(some_outputs, some_targets)
    value = metric.compute()
    assert type(value) is float
    return value


def wide(tensor: Tensor) -> Array:
    return tensor.numpy().astype(np.float64)


def regression(outputs: int = 3, offset: float = 0.0, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(64, outputs, generator=generator) * torch.arange(1, outputs + 1) + offset
    return targets + noise * torch.randn(64, outputs, generator=generator), targets


def r2(outputs: Tensor, targets: Tensor) -> float:
    error = ((wide(outputs) - wide(targets)) ** 2).sum(0)
    deviation = ((wide(targets) - wide(targets).mean(0)) ** 2).sum(0)
    return float((1 - error / deviation).mean())


def mse(outputs: Tensor, targets: Tensor) -> float:
    return float(((wide(outputs) - wide(targets)) ** 2).mean())


def mae(outputs: Tensor, targets: Tensor) -> float:
    return float(np.abs(wide(outputs) - wide(targets)).mean())


REGRESSION: list[tuple[type, Callable[[Tensor, Tensor], float]]] = [
    (R2, r2),
    (MeanSquaredError, mse),
    (MeanAbsoluteError, mae),
]


@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
@pytest.mark.parametrize(("metric", "reference"), REGRESSION)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regression_metric_is_exact_for_any_batching(
    metric: type, reference: Callable[[Tensor, Tensor], float], outputs: int, sizes: list[int]
) -> None:
    predicted, targets = regression(outputs)
    assert compute(metric(), predicted, targets, sizes) == pytest.approx(
        reference(predicted, targets), rel=1e-6
    )


@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_accuracy_is_exact_for_any_batching(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(64, 4, generator=generator)
    targets = torch.randint(4, (64,), generator=generator)
    expected = float((outputs.numpy().argmax(1) == targets.numpy()).mean())
    assert 0 < expected < 1
    assert compute(Accuracy(), outputs, targets, sizes) == expected


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 0.0)])
def test_accuracy_of_all_right_and_all_wrong(shift: int, expected: float) -> None:
    targets = torch.arange(64) % 4
    outputs = torch.nn.functional.one_hot((targets + shift) % 4).float()
    assert compute(Accuracy(), outputs, targets, [10] * 6 + [4]) == expected


@pytest.mark.parametrize("offset", [1e3, 1e5, -1e5])
@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_r2_does_not_cancel_at_large_offsets(offset: float, sizes: list[int]) -> None:
    """A sum of squares minus a square of sums would lose every digit here."""
    outputs, targets = regression(offset=offset)
    expected = r2(outputs, targets)
    assert 0.5 < expected < 1
    assert compute(R2(), outputs, targets, sizes) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_r2_where_the_mean_moves_between_batches(sizes: list[int]) -> None:
    targets = torch.arange(64, dtype=torch.float32).square().unsqueeze(1)
    outputs = targets + torch.randn(64, 1, generator=torch.Generator().manual_seed(1))
    assert compute(R2(), outputs, targets, sizes) == pytest.approx(r2(outputs, targets), rel=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6, -3.3e7])
@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_targets_that_do_not_vary_have_no_r2(constant: float, sizes: list[int]) -> None:
    targets = torch.full((64, 1), constant)
    assert math.isnan(compute(R2(), targets.clone(), targets, sizes))
    assert math.isnan(compute(R2(), targets + 1, targets, sizes))


def test_one_constant_output_leaves_no_mean_of_r2() -> None:
    outputs, targets = regression()
    targets[:, 1] = 4.2
    assert math.isnan(compute(R2(), outputs, targets, [30, 34]))


def test_r2_of_a_perfect_and_of_a_constant_guess() -> None:
    _, targets = regression()
    assert compute(R2(), targets, targets, [64]) == 1.0
    guess = targets.mean(0).expand_as(targets)
    assert compute(R2(), guess, targets, [50, 14]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("metric", "power"), [(MeanSquaredError, 2), (MeanAbsoluteError, 1)])
def test_a_mean_sums_in_double_precision(metric: type, power: int) -> None:
    """In float32 a sum of 2**25 ones stops growing at 2**24."""
    each = metric()
    batch = torch.full((2**20, 1), 3.0), torch.zeros(2**20, 1)
    for _ in range(33):
        each.update(*batch)
    assert each.compute() == 3.0**power


@pytest.mark.parametrize("name", ["accuracy", "mae", "mse", "r2"])
def test_a_metric_of_nothing_is_nan(name: str) -> None:
    assert math.isnan(METRICS.load(name)().compute())


@pytest.mark.parametrize("name", ["accuracy", "mae", "mse", "r2"])
def test_a_metric_keeps_what_it_was_given_unchanged(name: str) -> None:
    if name == "accuracy":
        outputs, targets = torch.randn(8, 3), torch.randint(3, (8,))
    else:
        outputs, targets = torch.randn(8, 3), torch.randn(8, 3)
    before = outputs.clone(), targets.clone()
    metric = METRICS.load(name)()
    metric.update(outputs, targets)
    metric.compute()
    assert torch.equal(outputs, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize("metric", [R2, MeanSquaredError, MeanAbsoluteError])
def test_a_split_with_a_value_that_is_not_a_number_is_not_a_number(metric: type) -> None:
    outputs, targets = regression()
    outputs[10] = math.nan
    assert math.isnan(compute(metric(), outputs, targets, [32, 32]))
