"""Every metric against scikit-learn, over many batchings, with ties and absent classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from trainctl.components.metrics.accuracy import Accuracy
from trainctl.components.metrics.auroc import AUROC
from trainctl.components.metrics.balanced_accuracy import BalancedAccuracy
from trainctl.components.metrics.f1 import F1
from trainctl.components.metrics.per_class_accuracy import PerClassAccuracy
from trainctl.components.metrics.top_k_accuracy import TopKAccuracy
from trainctl.errors import ConfigError
from trainctl.registry import METRICS

SAMPLES = 97
BATCHINGS = [[97], [1] * 97, [96, 1], [1, 96], [32, 32, 32, 1], [7] * 13 + [6], [5, 40, 2, 17, 33]]
NEW = ("auroc", "balanced_accuracy", "f1", "per_class_accuracy", "top_k_accuracy")
Case = tuple[Tensor, Tensor]


def feed(metric: Any, case: Case, sizes: list[int] | None = None) -> Any:
    outputs, targets = case
    sizes = sizes or [len(targets)]
    assert sum(sizes) == len(targets)
    for some_outputs, some_targets in zip(outputs.split(sizes), targets.split(sizes), strict=True):
        metric.update(some_outputs, some_targets)
    return metric.compute()


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
    "binary": case(2),
    "binary with ties": case(2, 1, tied=True),
    "three": case(3, 2),
    "ten": case(10, 3),
    "ten with ties": case(10, 4, tied=True),
    "absent": case(6, 5, without=(0, 3)),
    "absent with ties": case(6, 6, without=(5,), tied=True),
    "one class": case(4, 7, without=(0, 1, 3)),
}


def predicted(case: Case) -> Any:
    return case[0].argmax(1).numpy()


def balanced_accuracy(case: Case) -> float:
    present = np.unique(case[1].numpy())
    return float(sk.recall_score(case[1], predicted(case), labels=present, average="macro"))


def f1(average: str) -> Callable[[Case], float]:
    # scikit-learn's own choice of labels: those among targets or predictions.
    return lambda case: float(sk.f1_score(case[1], predicted(case), average=average))


def top_k(k: int) -> Callable[[Case], float]:
    def score(case: Case) -> float:
        # Of equal outputs scikit-learn takes the last class first: numbered backwards, that is the first.
        outputs, classes = case[0].flip(1).numpy(), case[0].shape[1]
        return float(sk.top_k_accuracy_score(classes - 1 - case[1], outputs, k=k, labels=range(classes)))

    return score


METRICS_AND_REFERENCES: list[tuple[str, Callable[[int], Any], Callable[[Case], float]]] = [
    ("accuracy", lambda classes: Accuracy(), lambda case: sk.accuracy_score(case[1], predicted(case))),
    ("balanced_accuracy", BalancedAccuracy, balanced_accuracy),
    ("f1 macro", F1, f1("macro")),
    ("f1 micro", lambda classes: F1(classes, "micro"), f1("micro")),
    ("f1 weighted", lambda classes: F1(classes, "weighted"), f1("weighted")),
]
EACH = pytest.mark.parametrize(
    ("make", "reference"),
    [entry[1:] for entry in METRICS_AND_REFERENCES],
    ids=[e[0] for e in METRICS_AND_REFERENCES],
)


@EACH
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_a_metric_is_scikit_learns_for_any_batching(
    make: Callable[[int], Any], reference: Callable[[Case], float], name: str, sizes: list[int]
) -> None:
    value = feed(make(CASES[name][0].shape[1]), CASES[name], sizes)
    assert type(value) is float
    assert value == pytest.approx(reference(CASES[name]), rel=1e-12)


def test_balanced_accuracy_has_scikit_learns_own_name_for_it() -> None:
    assert feed(BalancedAccuracy(10), CASES["ten"]) == pytest.approx(
        sk.balanced_accuracy_score(CASES["ten"][1], predicted(CASES["ten"])), rel=1e-12
    )


# ------------------------------------------------------------------------ top k


@pytest.mark.parametrize(
    ("name", "k"), [(name, k) for name in CASES for k in (1, 2, 5) if 2 < CASES[name][0].shape[1] > k]
)
@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_top_k_accuracy_is_scikit_learns(k: int, name: str, sizes: list[int]) -> None:
    classes = CASES[name][0].shape[1]
    assert feed(TopKAccuracy(classes, k), CASES[name], sizes) == pytest.approx(
        top_k(k)(CASES[name]), rel=1e-12
    )


@pytest.mark.parametrize("name", CASES)
def test_top_1_is_the_accuracy_also_where_outputs_are_equal(name: str) -> None:
    classes = CASES[name][0].shape[1]
    assert feed(TopKAccuracy(classes, 1), CASES[name]) == feed(Accuracy(), CASES[name])


def test_of_equal_outputs_the_lower_class_comes_first() -> None:
    outputs, targets = torch.zeros(4, 4), torch.arange(4)
    assert [feed(TopKAccuracy(4, k), (outputs, targets)) for k in (1, 2, 3)] == [0.25, 0.5, 0.75]


def test_outputs_that_are_no_numbers_are_never_right() -> None:
    outputs = torch.full((4, 4), float("nan"))
    assert feed(TopKAccuracy(4, 3), (outputs, torch.arange(4))) == 0


@pytest.mark.parametrize("classes", [1, 3, 5])
def test_a_k_that_every_model_reaches_is_refused(classes: int) -> None:
    with pytest.raises(ConfigError, match=rf"k=5: always 1 with {classes} classes"):
        TopKAccuracy(classes)


# ------------------------------------------------------------------------- auroc


def one_vs_rest(case: Case) -> float:
    """scikit-learn's binary area of each class that has samples and is not alone, averaged."""
    scores, targets = case[0].double().softmax(1).numpy(), case[1].numpy()
    present = [number for number in range(scores.shape[1]) if 0 < (targets == number).sum() < len(targets)]
    return float(np.mean([sk.roc_auc_score(targets == number, scores[:, number]) for number in present]))


@pytest.mark.parametrize("name", [name for name in CASES if name != "one class"])
@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_the_area_is_scikit_learns_for_any_batching(name: str, sizes: list[int]) -> None:
    assert feed(AUROC(), CASES[name], sizes) == pytest.approx(one_vs_rest(CASES[name]), rel=1e-12)


@pytest.mark.parametrize("name", ["three", "ten", "ten with ties"])
def test_with_all_classes_there_it_is_scikit_learns_macro_average(name: str) -> None:
    scores = CASES[name][0].double().softmax(1).numpy()
    expected = sk.roc_auc_score(CASES[name][1], scores, multi_class="ovr", average="macro")
    assert feed(AUROC(), CASES[name]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["binary", "binary with ties"])
def test_with_two_classes_it_is_the_binary_area(name: str) -> None:
    outputs, targets = CASES[name]
    expected = sk.roc_auc_score(targets, (outputs[:, 1] - outputs[:, 0]).numpy())
    assert feed(AUROC(), CASES[name]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_area_counts_pairs(seed: int) -> None:
    """By the definition: every pair of a positive and a negative, half of the equal ones."""
    outputs, targets = case(2, seed, tied=seed % 2 == 0)
    score = outputs[:, 1] - outputs[:, 0]
    pairs = score[targets == 1][:, None] - score[targets == 0][None, :]
    expected = ((pairs > 0).sum() + 0.5 * (pairs == 0).sum()).item() / pairs.numel()
    assert feed(AUROC(), (outputs, targets)) == expected


def test_equal_scores_are_worth_a_half_and_a_perfect_order_one() -> None:
    targets = torch.tensor([0, 1, 0, 1, 2, 2])
    assert feed(AUROC(), (torch.zeros(6, 3), targets)) == 0.5
    assert feed(AUROC(), (torch.eye(3)[targets], targets)) == 1.0
    assert feed(AUROC(), (-torch.eye(2)[targets[:4]], targets[:4])) == 0.0


def test_equal_rows_stay_equal_wherever_they_stand() -> None:
    """A score that depended on the place in a batch would break ties at random."""
    row = torch.randn(11, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(11, (SAMPLES,), generator=torch.Generator().manual_seed(1))
    for sizes in BATCHINGS:
        assert feed(AUROC(), (row.repeat(SAMPLES, 1), targets), sizes) == 0.5


def test_a_confident_models_order_is_not_rounded_away() -> None:
    """Both probabilities of class 1 are 1.0 in float64; the larger difference still ranks first."""
    outputs = torch.tensor([[0.0, 100.0], [0.0, 200.0]])
    assert feed(AUROC(), (outputs, torch.tensor([0, 1]))) == 1.0


def test_an_absent_class_is_left_out_and_one_alone_has_no_area() -> None:
    outputs, targets = CASES["absent"]
    assert math.isfinite(feed(AUROC(), (outputs, targets)))
    assert math.isnan(feed(AUROC(), CASES["one class"]))


def test_outputs_that_are_no_numbers_have_no_area() -> None:
    outputs, targets = CASES["three"]
    broken = outputs.clone()
    broken[3, 1] = float("nan")
    assert math.isnan(feed(AUROC(), (broken, targets)))


# --------------------------------------------------------------------- per class


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_the_accuracy_of_each_class_is_its_recall(name: str, sizes: list[int]) -> None:
    outputs, targets = CASES[name]
    classes = tuple(f"class {number}" for number in range(outputs.shape[1]))
    values = feed(PerClassAccuracy(len(classes), classes), CASES[name], sizes)
    present = sorted(set(targets.tolist()))
    recalls = sk.recall_score(targets, predicted(CASES[name]), labels=present, average=None)
    assert list(values) == [classes[number] for number in present]
    assert list(values.values()) == pytest.approx(list(recalls), rel=1e-12)


# -------------------------------------------------------------------- regression


@pytest.mark.parametrize(
    ("name", "reference"),
    [("mse", sk.mean_squared_error), ("mae", sk.mean_absolute_error), ("r2", sk.r2_score)],
)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("sizes", BATCHINGS, ids=str)
def test_a_regression_metric_is_scikit_learns(
    name: str, reference: Callable[..., float], outputs: int, sizes: list[int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = 5 * torch.randn(SAMPLES, outputs, generator=generator) + 3
    guesses = targets + torch.randn(SAMPLES, outputs, generator=generator)
    # The differences are taken in the float32 that a model gives.
    assert feed(make(name), (guesses, targets), sizes) == pytest.approx(reference(targets, guesses), rel=1e-6)


# ---------------------------------------------------------------------- the rest


def test_a_class_that_is_only_predicted_counts_as_zero_and_one_nowhere_does_not_count() -> None:
    outputs, targets = torch.eye(4)[[0, 0, 1]], torch.tensor([0, 0, 0])
    assert feed(F1(4), (outputs, targets)) == pytest.approx((0.8 + 0) / 2)
    assert feed(F1(4, "weighted"), (outputs, targets)) == pytest.approx(0.8)
    assert feed(BalancedAccuracy(4), (outputs, targets)) == pytest.approx(2 / 3)


def make(name: str) -> Any:
    supplied = {"output_size": 10, "classes": tuple(map(str, range(10)))}
    return METRICS.load(name)(**{key: supplied[key] for key in METRICS.takes(name)})


@pytest.mark.parametrize("name", NEW)
def test_an_empty_split_has_no_value(name: str) -> None:
    value = make(name).compute()
    assert value == {} or math.isnan(value)


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_says_its_task_and_its_direction(name: str) -> None:
    metric = METRICS.load(name)
    assert metric.task in ("classification", "regression")  # type: ignore[attr-defined]
    assert metric.lower_is_better is (name in ("mse", "mae"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["accuracy", *NEW])
def test_a_metric_changes_neither_outputs_nor_targets(name: str) -> None:
    outputs, targets = CASES["ten"]
    before = outputs.clone(), targets.clone()
    feed(make(name), (outputs, targets), [90, 7])
    assert torch.equal(outputs, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["accuracy", *NEW])
def test_on_a_device_a_batch_is_not_waited_for_and_the_value_is_the_same(name: str) -> None:
    outputs, targets = CASES["ten with ties"]
    metric, on_device = make(name), (outputs.cuda(), targets.cuda())
    torch.use_deterministic_algorithms(True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric.update(on_device[0][:50], on_device[1][:50])
        metric.update(on_device[0][50:], on_device[1][50:])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metric.compute() == pytest.approx(feed(make(name), (outputs, targets)), rel=1e-12)
