"""Every metric against scikit-learn, whole and in uneven batches, with ties and absent classes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from trainctl.components.metrics.auroc import AUROC
from trainctl.components.metrics.balanced_accuracy import BalancedAccuracy
from trainctl.components.metrics.f1 import F1
from trainctl.components.metrics.top_k_accuracy import TopKAccuracy
from trainctl.errors import ConfigError
from trainctl.registry import METRICS

SAMPLES = 97
BATCHINGS = [[97], [5, 40, 1, 51]]
CLASSIFICATION = ("accuracy", "auroc", "balanced_accuracy", "f1", "per_class_accuracy", "top_k_accuracy")
Case = tuple[Tensor, Tensor]


def feed(metric: Any, case: Case, sizes: list[int] | None = None) -> Any:
    outputs, targets = case
    sizes = sizes or [len(targets)]
    assert sum(sizes) == len(targets)
    for some_outputs, some_targets in zip(outputs.split(sizes), targets.split(sizes), strict=True):
        metric.update(some_outputs, some_targets)
    return metric.compute()


def make(name: str, classes: int = 10, **arguments: Any) -> Any:
    supplied = {"output_size": classes, "classes": tuple(map(str, range(classes)))}
    return METRICS.load(name)(**{key: supplied[key] for key in METRICS.takes(name)}, **arguments)


def case(classes: int, seed: int = 0, without: tuple[int, ...] = (), tied: bool = False) -> Case:
    """Outputs that are right more often than not; ``tied`` makes many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.tensor([number for number in range(classes) if number not in without])
    targets = present[torch.randint(len(present), (SAMPLES,), generator=generator)]
    outputs = torch.randn(SAMPLES, classes, generator=generator)
    outputs[torch.arange(SAMPLES), targets] += 1
    if tied:
        # Whole rows repeat, and within a row some outputs are equal.
        outputs = outputs.round()[torch.randint(SAMPLES // 4, (SAMPLES,), generator=generator)]
    return outputs, targets


CASES = {
    "binary with ties": case(2, 1, tied=True),
    "ten": case(10, 3),
    "ten with ties": case(10, 4, tied=True),
    "absent with ties": case(6, 5, without=(0, 3), tied=True),
    "one class": case(4, 7, without=(0, 1, 3)),
}


def predicted(case: Case) -> Any:
    return case[0].argmax(1).numpy()


def recalls(case: Case) -> dict[str, float]:
    present = sorted(set(case[1].tolist()))
    values = sk.recall_score(case[1], predicted(case), labels=present, average=None)
    return {str(number): float(value) for number, value in zip(present, values, strict=True)}


def f1(average: str) -> Callable[[Case], float]:
    # scikit-learn's own choice of labels: those among targets or predictions.
    return lambda case: float(sk.f1_score(case[1], predicted(case), average=average))


def top_k(k: int) -> Callable[[Case], float]:
    def score(case: Case) -> float:
        # Of equal outputs scikit-learn takes the last class first: numbered backwards, that is the first.
        outputs, classes = case[0].flip(1).numpy(), case[0].shape[1]
        return float(sk.top_k_accuracy_score(classes - 1 - case[1], outputs, k=k, labels=range(classes)))

    return score


def one_vs_rest(case: Case) -> float:
    """scikit-learn's binary area of each class that has samples and is not alone, averaged."""
    scores, targets = case[0].double().softmax(1).numpy(), case[1].numpy()
    present = [number for number in range(scores.shape[1]) if 0 < (targets == number).sum() < len(targets)]
    areas = [sk.roc_auc_score(targets == number, scores[:, number]) for number in present]
    return float(np.mean(areas)) if areas else math.nan


METRICS_AND_REFERENCES: list[tuple[str, dict[str, Any], Callable[[Case], Any]]] = [
    ("accuracy", {}, lambda case: sk.accuracy_score(case[1], predicted(case))),
    ("balanced_accuracy", {}, lambda case: float(np.mean(list(recalls(case).values())))),
    ("per_class_accuracy", {}, recalls),
    ("f1", {}, f1("macro")),
    ("f1", {"average": "micro"}, f1("micro")),
    ("f1", {"average": "weighted"}, f1("weighted")),
    ("top_k_accuracy", {"k": 1}, lambda case: sk.accuracy_score(case[1], predicted(case))),
    ("top_k_accuracy", {"k": 3}, top_k(3)),
    ("auroc", {}, one_vs_rest),
]


@pytest.mark.parametrize(("metric", "arguments", "reference"), METRICS_AND_REFERENCES)
@pytest.mark.parametrize("name", CASES)
def test_a_metric_is_scikit_learns_for_any_batching(
    metric: str, arguments: dict[str, Any], reference: Callable[[Case], Any], name: str
) -> None:
    outputs, targets = CASES[name]
    if outputs.shape[1] <= arguments.get("k", 0):
        pytest.skip("every model would reach 1")
    kept = outputs.clone(), targets.clone()
    for sizes in BATCHINGS:
        value = feed(make(metric, outputs.shape[1], **arguments), (outputs, targets), sizes)
        assert type(value) in (float, dict)
        assert value == pytest.approx(reference(CASES[name]), rel=1e-12, nan_ok=True)
    assert torch.equal(outputs, kept[0])
    assert torch.equal(targets, kept[1])


@pytest.mark.parametrize(
    ("name", "reference"),
    [("mse", sk.mean_squared_error), ("mae", sk.mean_absolute_error), ("r2", sk.r2_score)],
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regression_metric_is_scikit_learns(
    name: str, reference: Callable[..., float], outputs: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = 5 * torch.randn(SAMPLES, outputs, generator=generator) + 3
    guesses = targets + torch.randn(SAMPLES, outputs, generator=generator)
    kept = guesses.clone(), targets.clone()
    for sizes in BATCHINGS:
        value = feed(make(name), (guesses, targets), sizes)
        assert type(value) is float
        # The differences are taken in the float32 that a model gives.
        assert value == pytest.approx(reference(targets, guesses), rel=1e-6)
    assert torch.equal(guesses, kept[0])
    assert torch.equal(targets, kept[1])


# ------------------------------------------------------------------- edge cases


def test_outputs_that_are_no_numbers_are_never_right_and_have_no_area() -> None:
    outputs = torch.full((4, 4), math.nan)
    assert feed(TopKAccuracy(4, 3), (outputs, torch.arange(4))) == 0
    broken = CASES["ten"][0].clone()
    broken[3, 1] = math.nan
    assert math.isnan(feed(AUROC(), (broken, CASES["ten"][1])))


@pytest.mark.parametrize("classes", [1, 5])
def test_a_k_that_every_model_reaches_is_refused(classes: int) -> None:
    with pytest.raises(ConfigError, match=rf"k=5: always 1 with {classes} classes"):
        TopKAccuracy(classes)


def test_equal_rows_stay_equal_wherever_they_stand() -> None:
    """A score that depended on the place in a batch would break ties at random."""
    row = torch.randn(11, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(11, (SAMPLES,), generator=torch.Generator().manual_seed(1))
    for sizes in ([1] * 97, [7] * 13 + [6]):
        assert feed(AUROC(), (row.repeat(SAMPLES, 1), targets), sizes) == 0.5


def test_a_confident_models_order_is_not_rounded_away() -> None:
    """Both probabilities of class 1 are 1.0 in float64; the larger difference still ranks first."""
    outputs = torch.tensor([[0.0, 100.0], [0.0, 200.0]])
    assert feed(AUROC(), (outputs, torch.tensor([0, 1]))) == 1.0


def test_a_class_that_is_only_predicted_counts_as_zero_and_one_nowhere_does_not_count() -> None:
    outputs, targets = torch.eye(4)[[0, 0, 1]], torch.tensor([0, 0, 0])
    assert feed(F1(4), (outputs, targets)) == pytest.approx((0.8 + 0) / 2)
    assert feed(F1(4, "weighted"), (outputs, targets)) == pytest.approx(0.8)
    assert feed(BalancedAccuracy(4), (outputs, targets)) == pytest.approx(2 / 3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_on_a_device_a_batch_is_not_waited_for_and_the_value_is_the_same(name: str) -> None:
    outputs, targets = CASES["ten with ties"]
    metric, on_device = make(name), (outputs.cuda(), targets.cuda())
    torch.use_deterministic_algorithms(True)
    try:
        with warnings.catch_warnings(action="ignore"):  # it says that it is a prototype
            torch.cuda.set_sync_debug_mode("error")
        metric.update(on_device[0][:50], on_device[1][:50])
        metric.update(on_device[0][50:], on_device[1][50:])
    finally:
        torch.cuda.set_sync_debug_mode(0)
    assert metric.compute() == pytest.approx(feed(make(name), (outputs, targets)), rel=1e-12)
