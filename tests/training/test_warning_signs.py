"""What is said of a run that will not learn what its user wants, and what is not said of one that will."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainctl.components.datasets.digits import digits
from trainctl.data.types import Data, Split
from trainctl.training.warning_signs import no_better_than_a_guess, signs_in, squashed_outputs

SHORT = ("threads=1", "epochs=1", "hydra.run.dir=run")


def data(train: Split, task: str = "classification", outputs: int = 2, **others: Any) -> Data:
    shape = tuple(train.inputs.shape[1:])
    return Data("made", task, train, others.pop("test", None), shape, outputs, nn.Identity(), **others)


def samples(count: int, seed: int, width: int = 8) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.randn(count, width, generator=generator), torch.arange(count) % 2)


# ------------------------------------------------------------------ samples and targets


def test_ordinary_data_has_no_sign() -> None:
    assert not [*signs_in(data(samples(90, 0), val=samples(30, 1), test=samples(30, 2)))]
    assert not [*signs_in(digits())]


@pytest.mark.parametrize("shape", [(8,), (1, 12, 12)])
def test_samples_that_are_training_samples_are_counted(shape: tuple[int, ...]) -> None:
    width = torch.Size(shape).numel()
    train, test = samples(300, 0, width), samples(40, 1, width)
    test.inputs[:20] = train.inputs[100:120]
    train, test = (Split(each.inputs.view(-1, *shape), each.targets) for each in (train, test))
    (sign,) = signs_in(data(train, test=test))
    assert sign.startswith("20 of the 40 test samples are training samples, too")
    test.inputs[:20] += 1e-3
    assert not [*signs_in(data(train, test=test))]


def test_equal_rows_of_a_table_of_few_values_are_no_sign() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 3, (600, 4), generator=generator).float()
    train, test = (Split(part, torch.arange(len(part)) % 2) for part in (rows[:500], rows[500:]))
    assert not [*signs_in(data(train, test=test))]
    empty = Split(torch.zeros(60, 1, 9, 9), torch.arange(60) % 2)
    assert not [*signs_in(data(empty, test=empty))]


def test_of_many_samples_some_are_looked_at() -> None:
    train = samples(5000, 0)
    (sign,) = signs_in(data(train, test=train))
    assert sign.startswith("1000 of the 1000 test samples that were looked at are training samples, too")


def test_absent_classes_are_named() -> None:
    train = samples(30, 0)
    (sign,) = signs_in(data(train, outputs=4, classes=("a", "b", "c", "d")))
    assert sign == "classes without a training sample: 'c', 'd'"
    only = Split(train.inputs, torch.ones(30, dtype=torch.int64))
    (sign,) = signs_in(data(only, classes=("no", "yes")))
    assert sign == "all training samples are of class 'yes': there is nothing to tell apart"


def test_inputs_that_are_not_finite_are_named_unless_they_are_replaced() -> None:
    train = samples(30, 0)
    train.inputs[16, 2] = torch.nan
    train.inputs[20, 1] = torch.inf
    (sign,) = signs_in(data(train))
    assert sign.startswith("train input 17 at 3 is nan (such samples: 2)")

    class Replaced(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.nan_to_num()

    made = data(train)
    assert not [*signs_in(Data(**{**vars(made), "transform": Replaced()}))]
    train.inputs[16, 2], train.inputs[20, 1] = 3e38, 3e38  # the sum overflows, no value does
    assert not [*signs_in(data(train))]


# ------------------------------------------------------------------ model and loss


@pytest.mark.parametrize(
    ("ending", "criterion", "said"),
    [
        (nn.Softmax(1), nn.CrossEntropyLoss(), "ends in a softmax"),
        (nn.Sigmoid(), nn.CrossEntropyLoss(), "ends in a sigmoid"),
        (nn.Sequential(nn.Sigmoid(), nn.Flatten()), nn.BCEWithLogitsLoss(), "ends in a sigmoid"),
        (nn.Identity(), nn.CrossEntropyLoss(), ""),
        (nn.LogSoftmax(1), nn.CrossEntropyLoss(), ""),  # the softmax of these is the same once more
        (nn.ReLU(), nn.BCEWithLogitsLoss(), ""),
        (nn.Sigmoid(), nn.BCELoss(), ""),
        (nn.Sigmoid(), nn.MSELoss(), ""),
        (nn.LogSoftmax(1), nn.NLLLoss(), ""),
    ],
)
def test_a_last_layer_that_the_loss_has_too_is_named(ending: Any, criterion: Any, said: str) -> None:
    outputs = nn.Sequential(nn.Linear(4, 3), ending)(torch.rand(2, 4))
    signs = [*squashed_outputs(criterion, outputs)]
    assert len(signs) == bool(said)
    assert said in "".join(signs)


MODELS = """
import torch
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("half")
class Half(nn.Module):
    def __init__(self, input_shape, output_size, use: bool = False):
        super().__init__()
        self.first = nn.Linear(input_shape.numel() if hasattr(input_shape, "numel") else 64, output_size)
        self.second = nn.Linear(64, output_size)
        self.use = use
        self.count = 0

    def forward(self, inputs):
        outputs = self.first(inputs.flatten(1))
        self.count += self.training
        # By turns, as layers that are dropped at random.
        return outputs + self.second(inputs.flatten(1)) if self.use and self.count % 3 == 0 else outputs
"""


@pytest.mark.parametrize("use", [False, True])
def test_parameters_without_a_gradient_are_named(use: bool, trainctl: Any, tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(MODELS)
    outcome = trainctl("plugins=[./half.py]", "model.name=half", f"model.use={use}", *SHORT)
    assert outcome.code == 0, outcome.err
    said = "no gradient in the first 10 steps: second.weight, second.bias; the outputs do not depend on"
    assert (said in outcome.out + outcome.err) != use
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["environment"]
    assert ("unreached" in recorded) != use


def test_signs_are_on_the_screen_in_the_log_and_in_the_record(trainctl: Any, tmp_path: Path) -> None:
    layers = "++model.layers=[Flatten,{Linear:10},{Softmax:{dim:1}}]"
    outcome = trainctl("model=sequential", layers, *SHORT)
    assert outcome.code == 0, outcome.err
    sign = "the model ends in a softmax, and CrossEntropy applies its own"
    assert (outcome.out + outcome.err).count(sign) == 1
    assert sign in (tmp_path / "run" / "train.log").read_text()
    assert sign in json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["warnings"]
    quiet = trainctl("model=linear", "threads=1", "epochs=1", "hydra.run.dir=quiet")
    assert "warnings" not in json.loads((tmp_path / "quiet" / "run.json").read_text())["environment"]
    assert "not better than a guess" not in quiet.out + quiet.err


# ------------------------------------------------------------------ the end


def test_an_accuracy_of_the_most_frequent_class_is_named() -> None:
    train = Split(torch.rand(10, 2), torch.tensor([0] * 7 + [1] * 3))
    made = data(train, test=train, classes=("no", "yes"))
    said = no_better_than_a_guess(made, {"test/accuracy": 0.7})
    assert said == "test/accuracy 0.7000 is not better than a guess: always saying 'no' has 0.7000"
    assert no_better_than_a_guess(made, {"test/accuracy": 0.8}) is None
    assert no_better_than_a_guess(made, {"val/accuracy": 0.1}) is None  # there is no such split
    assert no_better_than_a_guess(made, {}) is None


def test_it_is_said_at_the_end(trainctl: Any, tmp_path: Path) -> None:
    rows = "".join(f"{row * 37 % 101},{'yes' if row % 4 == 0 else 'no'}\n" for row in range(200))
    (tmp_path / "table.csv").write_text(f"a,y\n{rows}")
    outcome = trainctl("dataset=csv", "dataset.path=table.csv", "lr=1e-6", *SHORT)
    assert outcome.code == 0, outcome.err
    assert "is not better than a guess: always saying 'no' has" in outcome.out + outcome.err
