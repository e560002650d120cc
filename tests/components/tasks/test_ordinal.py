"""Classes in an order: read, trained, evaluated, predicted, exported."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.helpers.lifecycles import built
from trainctl import load
from trainctl.components.losses.auto import auto
from trainctl.components.tasks._base import task_named, with_targets
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.data.types import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.training.build import build

ORDER = ["poor", "fair", "good", "fine"]
WORDS = (
    "dataset=csv", "dataset.path=grades.csv", f"dataset.as_task={{ordinal:{{order:[{','.join(ORDER)}]}}}}",
    "loss=bce_with_logits",
)  # fmt: skip
QUICK = ("threads=1", "display.mode=none", "train.batch_size=32", "model.hidden=[16]", "lr=0.01")


@pytest.fixture
def grades(tmp_path: Path) -> Path:
    draw = numpy.random.default_rng(0)
    x = draw.normal(size=(400, 3)).round(4)
    places = numpy.digitize(x[:, 0] + 0.5 * x[:, 1], (-1, 0, 1))
    with (tmp_path / "grades.csv").open("w", newline="") as file:
        rows = ([*row, ORDER[place]] for row, place in zip(x, places, strict=True))
        csv.writer(file).writerows([["a", "b", "c", "grade"], *rows])
    return tmp_path / "grades.csv"


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def made(targets: Any, outputs: int = 3) -> Data:
    split = Split(torch.zeros(len(targets), 1), targets)
    return Data("made", "ordinal", split, None, (1,), outputs, Standardize())


@pytest.mark.usefixtures("grades")
def test_targets_are_one_up_to_the_class_in_the_order_that_is_named() -> None:
    data = build(Composer().compose(list(map(to_hydra, WORDS))).config).data
    assert (data.task, data.output_size, data.classes) == ("ordinal", 3, tuple(ORDER))
    assert set(map(tuple, data.train.targets.tolist())) == {(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)}
    assert "classes in the order poor < fair < good < fine" in data.note


@pytest.mark.usefixtures("grades")
def test_grades_from_training_to_predictions(trainctl: Callable[..., Any]) -> None:
    asked = "train.metrics=[ordinal_mae,accuracy,{cohen_kappa:{weights:quadratic}}]"
    outcome = trainctl(*WORDS, *QUICK, asked, "epochs=20", "name=graded")
    assert outcome.code == 0, outcome.err
    scored = json.loads(trainctl("eval", "graded", "--json").out)
    assert scored["recorded"] == scored["values"]
    assert scored["values"]["test/ordinal_mae"] < 0.2
    assert scored["values"]["test/cohen_kappa"] > 0.9
    assert [each["name"] for each in scored["classes"]] == ORDER
    # What eval counts is what metrics say.
    off = [[abs(i - j) * n for j, n in enumerate(row)] for i, row in enumerate(scored["confusion"])]
    assert sum(map(sum, off)) / scored["samples"] == pytest.approx(scored["values"]["test/ordinal_mae"])
    assert trainctl("predict", "graded", "--input", "grades.csv", "--output", "out.csv").code == 0
    predicted, given = rows_of("out.csv"), rows_of("grades.csv")
    assert list(predicted[0]) == ["row", "prediction", *(f"probability_{name}" for name in ORDER), "error"]
    hits = [one["prediction"] == other["grade"] for one, other in zip(predicted, given, strict=True)]
    assert sum(hits) / len(hits) > 0.85
    for row in predicted:
        assert sum(float(row[f"probability_{name}"]) for name in ORDER) == pytest.approx(1, abs=1e-6)
    program = load("graded", preprocess=True)
    inputs = torch.tensor([[float(row[key]) for key in "abc"] for row in given])
    expected = torch.tensor([[float(row[f"probability_{name}"]) for name in ORDER] for row in predicted])
    torch.testing.assert_close(program(inputs), expected, rtol=1e-4, atol=1e-5)
    # Another file, in which a grade is absent, has the numbers of training.
    lines = [line for line in Path("grades.csv").read_text().splitlines() if not line.endswith("fair")]
    Path("few.csv").write_text("\n".join(lines))
    known = json.loads(trainctl("eval", "graded", "--json", "--split", "all", "dataset.path=few.csv").out)
    assert [each["support"] for each in known["classes"]][1] == 0
    assert known["values"]["all/accuracy"] > 0.85


def test_probabilities_are_those_of_a_distribution_whatever_the_model_says() -> None:
    task = task_named("ordinal")
    above = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    found = task.predict(above)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    torch.testing.assert_close(found[0], torch.tensor([0.1, 0.4, 0.4, 0.1]))
    assert (found >= 0).all()
    assert found[1, 1] == 0  # class 2 or above is likelier than class 1 or above
    assert found[2:].argmax(1).tolist() == [3, 0]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (torch.tensor([[1, 0, 1], [0, 0, 0]]), "target 1 has a 1 behind a 0"),
        (torch.tensor([[1, 0, 2], [0, 0, 0]]), "has 2 for label 2"),
        (torch.tensor([[1, 0], [0, 0]]), "have 2 labels, the dataset says 3"),
        (torch.tensor([0, 1, 2]), r"int64 of shape \(3,\)"),
    ],
)
def test_wrong_targets_are_refused(targets: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_targets(made(targets))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("ordinal", "has the class fair, and nothing says the order of its classes"),
        ("{ordinal:{order:[poor,fair,good]}}", "has the classes fair, fine, good, poor; the order names"),
        ("{ordinal:{order:[poor,fair,good,good]}}", "name each class once, the lowest first"),
        ("{ordinal:{order:poor}}", "dataset.as_task.ordinal.order=poor: must be a list"),
    ],
)
def test_an_order_that_is_missing_or_wrong_is_refused(
    asked: str, said: str, grades: Path, trainctl: Callable[..., Any]
) -> None:
    outcome = trainctl(*WORDS[:2], "loss=bce_with_logits", f"dataset.as_task={asked}")
    assert outcome.code == 2
    assert said in outcome.err


def test_smoke_makes_up_the_classes_that_are_named(tmp_path: Path) -> None:
    life, result = built(tmp_path, *WORDS)  # the file is not there
    assert (result.status, life.built.data.classes) == ("passed", tuple(ORDER)), result
    assert "made-up data in place of grades.csv" in " ".join(life.notes)


def test_weights_of_classes_count_samples_as_those_of_one_class_do() -> None:
    numbers = torch.tensor([0] * 6 + [1] * 3 + [2] + [3] * 2)
    targets = (numbers[:, None] >= torch.arange(1, 4)).float()
    outputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    counts = task_named("ordinal").class_counts(targets, 3)
    balanced = 12 / (4 * torch.tensor([6.0, 3, 1, 2]))
    for setting, weights in (("balanced", balanced), ([1, 2, 3, 4], torch.tensor([1.0, 2, 3, 4]))):
        loss = auto("ordinal", counts, class_weights=setting)
        each = binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)
        expected = (each * weights[numbers]).sum() / weights[numbers].sum()
        torch.testing.assert_close(loss(outputs, targets), expected)
        torch.testing.assert_close(loss.batch_weight(targets), weights[numbers].sum())
    plain = auto("ordinal", counts)
    torch.testing.assert_close(
        plain(outputs, targets), auto("ordinal", counts, class_weights=[1] * 4)(outputs, targets)
    )
    # Halfway between two classes.
    mixed = (targets[:1] + targets[-1:]) / 2
    assert float(loss.batch_weight(mixed)) == (1 + 4) / 2


def test_weights_of_another_number_of_classes_and_of_labels_are_refused() -> None:
    counts = task_named("ordinal").class_counts(torch.ones(4, 3), 3)
    with pytest.raises(ConfigError, match="2 weights for 4 classes"):
        auto("ordinal", counts, class_weights=[1, 2])
    with pytest.raises(ConfigError, match="a sample of multilabel is not of one class"):
        auto("multilabel", counts, class_weights="balanced")
