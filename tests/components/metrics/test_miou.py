"""Mean intersection over union, with classes absent and pixels ignored, against others' computations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from trainctl.components.metrics.miou import MeanIntersectionOverUnion

IGNORED = -100


def case(seed: int, classes: int, absent: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Outputs (N, classes, H, W) that are often right, and targets with ignored pixels; the classes that are
    ``absent`` are neither targets nor predictions."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor([number for number in range(classes) if number not in absent])
    targets = present[torch.randint(len(present), (7, 5, 6), generator=generator)]
    outputs = torch.randn(7, classes, 5, 6, generator=generator)
    outputs.scatter_add_(1, targets[:, None], torch.ones(7, 1, 5, 6))
    outputs[:, list(absent)] = -9.0
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = IGNORED
    targets[seed % 7] = IGNORED
    return outputs, targets


def measured(outputs: Tensor, targets: Tensor, sizes: Any = 3) -> float:
    metric = MeanIntersectionOverUnion(outputs.shape[1])
    for some, others in zip(outputs.split(sizes), targets.split(sizes), strict=True):
        metric.update(some, others)
    return metric.compute()


CASES = [(0, 3, ()), (1, 2, ()), (2, 5, (1,)), (3, 6, (0, 5)), (6, 4, (1, 2, 3))]


@pytest.mark.parametrize(("seed", "classes", "absent"), CASES)
def test_it_equals_scikit_learn(seed: int, classes: int, absent: tuple[int, ...]) -> None:
    from sklearn.metrics import jaccard_score

    outputs, targets = case(seed, classes, absent)
    counted = targets != IGNORED
    expected = jaccard_score(targets[counted], outputs.argmax(1)[counted], average="macro")
    for sizes in (1, 3, 7, [2, 5]):
        assert measured(outputs, targets, sizes) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow  # importing torchmetrics
@pytest.mark.parametrize(("seed", "classes", "absent"), CASES)
def test_it_equals_torchmetrics(seed: int, classes: int, absent: tuple[int, ...]) -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    if classes == 2:
        classes += 1  # its task of two classes is another
    outputs, targets = case(seed, classes, absent)
    theirs = classification.MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORED)
    assert measured(outputs, targets) == pytest.approx(float(theirs(outputs, targets)), rel=1e-5)


def test_a_class_that_is_only_predicted_counts_as_0() -> None:
    outputs = torch.zeros(1, 3, 1, 4)
    outputs[0, :, 0] = torch.eye(3)[[0, 0, 0, 2]].T
    assert measured(outputs, torch.zeros(1, 1, 4, dtype=torch.int64)) == pytest.approx((3 / 4 + 0) / 2)


def test_of_nothing_there_is_none() -> None:
    outputs, targets = case(0, 3)
    assert math.isnan(MeanIntersectionOverUnion(3).compute())
    assert math.isnan(measured(outputs, torch.full_like(targets, IGNORED)))
