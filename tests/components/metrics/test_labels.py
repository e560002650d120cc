"""The metrics of labels equal scikit-learn's, on random cases and at the edges."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from trainctl.registry import METRICS

NAMES = ("f1_micro", "f1_macro", "map")


def case(seed: int) -> tuple[Tensor, Tensor]:
    """Probabilities with ties, and labels; from the second case on one label that no sample has."""
    generator = torch.Generator().manual_seed(seed)
    outputs = (torch.rand(41, 5, generator=generator) * 20).round() / 20
    targets = (torch.rand(41, 5, generator=generator) < 0.3).float()
    if seed:
        targets[:, seed % 5] = 0
        outputs[:, (seed + 1) % 5] = 0.1  # never predicted
    return outputs, targets


def computed(name: str, outputs: Tensor, targets: Tensor, parts: int = 3, **settings: Any) -> float:
    """The metric of batches that several objects get, merged."""
    merged = METRICS.load(name)(**settings)
    for one, other in zip(outputs.split(7), targets.split(7), strict=True):
        part = METRICS.load(name)(**settings)
        part.update(one, other)
        merged.merge(part)
    return float(merged.compute())


def by_scikit_learn(name: str, outputs: Tensor, targets: Tensor, threshold: float = 0.5) -> float:
    metrics = pytest.importorskip("sklearn.metrics")
    held, scores = targets.numpy().astype(int), outputs.numpy()
    if name == "map":
        there = [label for label in range(held.shape[1]) if held[:, label].any()]
        return float(
            numpy.mean([metrics.average_precision_score(held[:, each], scores[:, each]) for each in there])
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = (scores >= numpy.float32(threshold)).astype(int)
        return float(
            metrics.f1_score(held, predicted, average=name.removeprefix("f1_"), zero_division=numpy.nan)
        )


@pytest.mark.slow  # importing scikit-learn
@pytest.mark.parametrize("name", NAMES)
def test_random_cases_equal_scikit_learn(name: str) -> None:
    for seed in range(20):
        outputs, targets = case(seed)
        assert computed(name, outputs, targets) == pytest.approx(
            by_scikit_learn(name, outputs, targets), abs=1e-12
        ), seed


@pytest.mark.slow
def test_another_threshold() -> None:
    outputs, targets = case(3)
    for threshold in (0.25, 0.75):
        for name in ("f1_micro", "f1_macro"):
            assert computed(name, outputs, targets, threshold=threshold) == pytest.approx(
                by_scikit_learn(name, outputs, targets, threshold)
            )


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        # No label anywhere, none predicted: nothing to measure.
        ([[0.1, 0.2]], [[0, 0]], (math.nan, math.nan, math.nan)),
        # No label anywhere, one predicted: the prediction is wrong.
        ([[0.9, 0.2]], [[0, 0]], (0.0, 0.0, math.nan)),
        # A sample without labels beside one with all: label 2 is predicted for both.
        ([[0.9, 0.6], [0.1, 0.7]], [[1, 1], [0, 0]], (4 / 5, (1 + 2 / 3) / 2, (1 + 1 / 2) / 2)),
        # Equal probabilities share a threshold.
        ([[0.5], [0.5]], [[1], [0]], (2 / 3, 2 / 3, 0.5)),
        ([[math.nan], [0.2]], [[1], [0]], (0.0, 0.0, math.nan)),
    ],
)
def test_edges(outputs: list[list[float]], targets: list[list[int]], expected: tuple[float, ...]) -> None:
    for name, value in zip(NAMES, expected, strict=True):
        given = torch.tensor(outputs), torch.tensor(targets).float()
        assert computed(name, *given) == pytest.approx(value, nan_ok=True), name
        assert math.isnan(METRICS.load(name)().compute())
