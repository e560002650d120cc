"""Metrics of parts of a split, merged in order, equal the metric of the whole split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trainctl.registry import METRICS

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")
SPLITS = [[40], [1, 39], [13, 0, 27], [20, 20], [9, 1, 14, 16]]


def made(name: str) -> Any:
    supplied = {"output_size": len(CLASSES), "classes": CLASSES}
    return METRICS.load(name)(**{key: supplied[key] for key in METRICS.takes(name)})


def batches(name: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(40, len(CLASSES), generator=generator)
    if METRICS.load(name).task == "regression":  # type: ignore[attr-defined]
        return outputs, 0.3 * outputs + torch.randn(outputs.shape, generator=generator) + 5
    if METRICS.load(name).task == "multilabel":  # type: ignore[attr-defined]
        return outputs.sigmoid(), (torch.rand(outputs.shape, generator=generator) < 0.5).float()
    return outputs, torch.randint(0, len(CLASSES), (40,), generator=generator)


def updated(metric: Any, outputs: Tensor, targets: Tensor) -> Any:
    """The metric after batches of at most 5 samples; none for no samples."""
    if len(targets):
        for some_outputs, some_targets in zip(outputs.split(5), targets.split(5), strict=True):
            metric.update(some_outputs, some_targets)
    return metric


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("name", METRICS.names())
def test_merged_parts_equal_the_whole(name: str, sizes: list[int]) -> None:
    outputs, targets = batches(name)
    first, *others = [
        updated(made(name), some_outputs, some_targets)
        for some_outputs, some_targets in zip(outputs.split(sizes), targets.split(sizes), strict=True)
    ]
    for other in others:
        before = other.compute()
        first.merge(other)
        assert other.compute() == pytest.approx(before, nan_ok=True)
    whole = updated(made(name), outputs, targets).compute()
    assert first.compute() == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_goes_on_after_a_merge_and_leaves_the_other_as_it_was(name: str) -> None:
    outputs, targets = batches(name)
    empty, other = made(name), updated(made(name), outputs[:15], targets[:15])
    before = other.compute()
    empty.merge(other)
    updated(empty, outputs[15:], targets[15:])
    assert empty.compute() == pytest.approx(updated(made(name), outputs, targets).compute(), rel=1e-12)
    assert other.compute() == before
