"""Tasks: what targets mean, asked of the task by every part of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainctl.components.tasks._base import class_names, task_named, task_of, with_targets
from trainctl.data.types import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.registry import TASKS

SOURCE = Path(__file__).parents[3] / "src" / "trainctl"


def data(
    targets: Tensor, task: str = "classification", outputs: int = 3, classes: tuple[str, ...] = ()
) -> Data:
    split = Split(torch.zeros(len(targets), 1), targets)
    return Data("made", task, split, None, (1,), outputs, Standardize(), classes=classes)


RIGHT = torch.tensor([0, 1, 2, 1])


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize(
    ("targets", "bad"), [([0, 1, 3], 3), ([-1, 0, 1], -1), ([0, 255, 2], 255), ([-7, 99], -7)]
)
@pytest.mark.parametrize("where", ["train", "val", "test"])
def test_a_class_number_out_of_range_is_named_with_its_split(
    targets: list[int], bad: int, where: str
) -> None:
    split = Split(torch.zeros(len(targets), 1), torch.tensor(targets))
    with pytest.raises(ConfigError, match=rf"{where} target {bad} is outside its 3 classes \(0 to 2\)"):
        with_targets(replace(data(RIGHT), **{where: split}))


def test_as_many_targets_as_inputs() -> None:
    uneven = Split(torch.zeros(4, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match="test has 4 inputs, 3 targets"):
        with_targets(replace(data(RIGHT), test=uneven))


def test_right_targets_pass() -> None:
    with_targets(data(RIGHT))
    with_targets(data(torch.tensor([[-5.0], [1e6]]), "regression", 1))
    with_targets(replace(data(RIGHT), test=Split(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64))))


@pytest.mark.parametrize(
    "given",
    [
        RIGHT.to(torch.uint8),
        RIGHT.to(torch.int16),
        RIGHT.float(),
        RIGHT.double(),
        RIGHT.unsqueeze(1),
        RIGHT.tolist(),
        RIGHT.numpy(),
    ],
)
def test_class_numbers_of_any_type_become_int64(given: Any) -> None:
    split = Split(torch.zeros(4, 1), given)
    converted = with_targets(replace(data(RIGHT), train=split, test=split))
    for part in (converted.train, converted.test):
        assert part is not None
        assert part.targets.dtype == torch.int64
        assert part.targets.tolist() == [0, 1, 2, 1]


def test_booleans_are_two_classes() -> None:
    converted = with_targets(data(torch.tensor([True, False]), outputs=2))
    assert converted.train.targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.tensor([0.5, 1.0]), r"train targets are float32 of shape \(2,\); classes are whole numbers"),
        (torch.tensor([torch.nan, 1.0]), "classes are whole numbers"),
        (
            torch.tensor([[0, 1], [1, 0]]),
            r"int64 of shape \(2, 2\); classes are whole numbers of shape \(N,\)",
        ),
        (torch.tensor([0j, 1j]), "complex64"),
        (torch.tensor(1), "targets are one number"),
        (["cat", "dog"], "targets are no tensor"),
        (None, "targets are no tensor"),
    ],
)
def test_targets_that_are_no_classes_are_refused_with_type_and_shape(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_targets(replace(data(RIGHT), train=Split(torch.zeros(2, 1), given)))


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (torch.tensor([1.5, 2.0]), torch.float32),
        (torch.tensor([1.5, 2.0], dtype=torch.float64), torch.float64),
        (torch.tensor([1.5, 2.0], dtype=torch.bfloat16), torch.float64),
        (torch.tensor([1, 2]), torch.float64),
        (torch.tensor([True, False]), torch.float64),
        ([1.5, 2.0], torch.float32),
        (torch.tensor([[1.5], [2.0]], requires_grad=True), torch.float32),
    ],
)
def test_values_become_floats_with_the_digits_they_have(given: Any, dtype: torch.dtype) -> None:
    split = Split(torch.zeros(2, 1), given)
    targets = with_targets(replace(data(torch.zeros(2, 1), "regression", 1), train=split)).train.targets
    assert (targets.dtype, targets.shape, targets.requires_grad) == (dtype, (2, 1), False)


def test_complex_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"complex64 of shape \(2,\); values must be real numbers"):
        with_targets(data(torch.tensor([1j, 2j]), "regression", 1))


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="dataset made: task 'guessing' does not exist") as caught:
        with_targets(data(RIGHT, "guessing"))
    assert caught.value.problems[0].remedy == f"there are: {', '.join(TASKS.names())}"


# ------------------------------------------------------------------ classes


def test_classes_have_their_own_names_where_these_are_distinct() -> None:
    assert class_names(data(RIGHT, outputs=2, classes=("cat", "dog"))) == ("cat", "dog")
    assert class_names(data(RIGHT)) == ("0", "1", "2")
    assert class_names(data(RIGHT, outputs=2, classes=("cat", "cat"))) == ("0", "1")
    assert class_names(data(torch.zeros(2, 2), "regression", 2)) == ()


def test_classes_are_counted_the_absent_ones_too() -> None:
    counts = task_named("classification").class_counts(RIGHT, 4)
    assert counts is not None
    assert counts.tolist() == [1, 2, 1, 0]
    assert task_named("regression").class_counts(torch.zeros(2, 1), 1) is None


def test_other_data_gets_the_class_numbers_of_the_model() -> None:
    other = data(torch.tensor([0, 1, 1]), outputs=2, classes=("c", "a"))
    known = task_of(other).as_trained(other, 3, ("a", "b", "c"))
    assert known.train.targets.tolist() == [2, 0, 0]
    assert (known.output_size, known.classes) == (3, ("a", "b", "c"))
    with pytest.raises(ConfigError, match="has c, which the model was not trained on"):
        task_of(other).as_trained(other, 2, ("a", "b"))
    values = data(torch.zeros(2, 2), "regression", 2)
    assert task_of(values).as_trained(values, 2, ()) is values
    with pytest.raises(ConfigError, match="has 2 values to predict, the model predicts 1"):
        task_of(values).as_trained(values, 1, ())


# ------------------------------------------------------------------ predictions


def test_predictions_as_columns_and_as_fields() -> None:
    task, classes = task_named("classification"), ("no", "yes")
    assert task.columns(classes, 2) == ["prediction", "probability_no", "probability_yes"]
    assert task.cells([0.25, 0.75], classes) == ["yes", 0.25, 0.75]
    assert task.cells([0.5, 0.5], classes)[0] == "no", "the first of equal ones, as argmax has it"
    assert task.fields([0.25, 0.75], classes) == {
        "prediction": "yes",
        "probabilities": {"no": 0.25, "yes": 0.75},
    }
    values = task_named("regression")
    assert values.columns((), 1) == ["prediction"]
    assert values.columns((), 2) == ["prediction_1", "prediction_2"]
    assert values.fields([1.5], ()) == {"prediction": 1.5}
    assert values.fields([1.5, 2.0], ()) == {"prediction": [1.5, 2.0]}
    outputs = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    assert values.predict(outputs).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_says_what_a_run_needs(name: str) -> None:
    task = task_named(name)
    assert task.name == name
    assert task.metrics
    assert task.monitor(task.metrics).startswith("val/")
    assert task.monitor(()) == "val/loss"
    assert task.columns(("a", "b"), 2)[0].startswith("prediction")


# ------------------------------------------------------------------ one file is a new task

COUNTS = """
import torch
from torch import nn
from trainctl.components.tasks import Task
from trainctl.data import Data, Split
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, TASKS


@TASKS.register("counting")
class Counting(Task):
    '''Counts: a model's outputs are their logarithms.'''

    name = "counting"
    targets = "counts"
    predictions = "counts"
    loss = "poisson_nll"

    def check(self, where, targets, outputs):
        if float(targets.min()) < 0:
            raise ConfigError(f"{where} has a negative count")

    def predict(self, outputs):
        return outputs.exp().flatten(1)


@DATASETS.register("visits")
def visits(least: float = 0.0) -> Data:
    inputs = torch.rand(80, 2, generator=torch.Generator().manual_seed(0))
    targets = (inputs.sum(1, keepdim=True) * 3).round() + least
    return Data("visits", "counting", Split(inputs, targets), None, (2,), 1, nn.Identity())
"""


def test_a_task_of_ones_own_trains_is_evaluated_and_predicts(trainctl, tmp_path: Path) -> None:
    (tmp_path / "counts.py").write_text(COUNTS)
    words = ["plugins=[./counts.py]", "dataset.name=visits", "model=linear", "threads=1", "batch_size=18"]
    run = [*words, "loss=mse", "epochs=2", "hydra.run.dir=run", "display.mode=none"]
    assert trainctl(*words, "loss=mse", "dataset.least=-1", "epochs=1").err.count("negative count") == 1
    refused = trainctl(*words, "loss=cross_entropy", "epochs=1")
    assert refused.code == 2
    assert "the targets are counts: use loss=poisson_nll" in refused.err
    assert "poisson_nll (loss=auto, for counting)" in trainctl(*words, "epochs=1").out
    outcome = trainctl(*run)
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["monitor"]["name"] == "val/loss"
    assert trainctl("eval", "run").code == 0
    (tmp_path / "new.csv").write_text("0.5,0.5\n0.1,0.9\n")
    outcome = trainctl("predict", "run", "--input", "new.csv", "--output", "out.csv")
    assert outcome.code == 0, outcome.err
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "row,prediction,error"
    assert all(float(line.split(",")[1]) > 0 for line in lines[1:])


def test_no_module_elsewhere_names_a_task() -> None:
    """Datasets say which task they are for, and a metric which one it fits."""
    may = ("data", "components/datasets", "components/metrics", "components/tasks")
    named = [f'"{name}"' for name in TASKS.names()]
    naming = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        # A model may be called as the task that it is for.
        if any(name in path.read_text(encoding="utf-8").replace(f"register({name})", "") for name in named)
    ]
    assert [path for path in naming if not path.startswith(may)] == []
