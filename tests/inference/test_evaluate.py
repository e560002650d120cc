"""Evaluating: a run's own numbers to the last digit, class by class, and other data as in training."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tests.helpers.program import modules_after
from tests.helpers.runs import everything, record
from tests.helpers.trained import PLUGIN, QUICK, TABLE, outputs_by_hand, write_table
from trainctl import load
from trainctl.cli.main import main
from trainctl.components.datasets.digits import digits


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "run"
    words = ("epochs=3", "model.hidden=[16]", "lr=3e-3", *QUICK)
    assert main([*words, f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def evaluated(trainctl, *words: str) -> dict[str, Any]:
    outcome = trainctl("eval", *words, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.fixture
def table_run(trainctl, tmp_path: Path) -> Path:
    write_table(tmp_path / "table.csv", 200, seed=1)
    assert trainctl(*TABLE, *QUICK, "batch_size=16", "hydra.run.dir=table").code == 0
    return tmp_path / "table"


# ------------------------------------------------------------------ the run's own data


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_what_was_recorded_is_repeated_to_the_last_digit_and_nothing_is_written(
    trainctl, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = everything(run)
    torch.set_num_threads(2)
    values = evaluated(trainctl, str(run), "--split", "val", "--checkpoint", checkpoint)["values"]
    known = record(run)[checkpoint]
    assert values == {name: value for name, value in known.items() if name.startswith("val/")}
    if checkpoint == "best":
        values = evaluated(trainctl, str(run))["values"]
        assert values == {
            name: value for name, value in record(run)["test"].items() if name.startswith("test/")
        }
        outcome = trainctl("eval", str(run))
        assert "digits: test, 297 samples of 1,797" in outcome.out
        assert "the same as recorded in the run, to the last digit" in outcome.out
    assert everything(run) == before


def test_another_recorded_value_is_said(trainctl, run: Path) -> None:
    values = record(run)
    values["test"]["test/loss"] = 0.5
    (run / "run.json").write_text(json.dumps(values))
    outcome = trainctl("eval", "run")
    assert "differs: the run recorded test/loss 0.5; here " in outcome.out
    assert outcome.code == 1
    # Elsewhere the last digits may differ.
    values["environment"]["torch"] = "1.0"
    for test_loss, code in ((0.5, 1), (float(outcome.out.split("here ")[1].split()[0]) + 1e-4, 0)):
        values["test"]["test/loss"] = test_loss
        (run / "run.json").write_text(json.dumps(values))
        assert trainctl("eval", "run").code == code
    assert trainctl("eval", "run", "--json").code == 0


def test_each_of_several_targets_has_its_metrics(trainctl, tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [[draw.gauss(0, 1), draw.gauss(0, 1)] for _ in range(200)]
    lines = [f"{a},{b},{a + b},{100 * (a - b) + draw.gauss(0, 9)}" for a, b in rows]
    (tmp_path / "two.csv").write_text("\n".join(["a,b,near,far", *lines]))
    words = ("dataset=csv", "dataset.path=two.csv", "dataset.target=[near,far]", "loss=mse", *QUICK)
    assert trainctl(*words, "train.metrics=[mae,r2]", "epochs=2", "hydra.run.dir=two").code == 0
    found = evaluated(trainctl, "two")
    assert list(found["by_target"]) == ["near", "far"]
    for name in ("mae", "r2"):
        each = [found["by_target"][target][name] for target in ("near", "far")]
        assert sum(each) / 2 == pytest.approx(found["values"][f"test/{name}"], rel=1e-6)
    assert found["by_target"]["far"]["mae"] > 10 * found["by_target"]["near"]["mae"]
    assert re.search(r"by target\n *target +mae +r2\n *near ", trainctl("eval", "two").out)


def test_classes_are_counted_as_scikit_learn_counts_them(trainctl, run: Path) -> None:
    found = evaluated(trainctl, "run")
    data = digits()
    with torch.no_grad():
        predicted = load("run")(data.transform(data.test.inputs)).argmax(1).tolist()
    targets = data.test.targets.tolist()
    assert found["confusion"] == confusion_matrix(targets, predicted, labels=range(10)).tolist()
    expected = precision_recall_fscore_support(targets, predicted, labels=range(10), zero_division=0)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[key] or 0 for row in found["classes"]] == pytest.approx(list(values))
    assert [row["name"] for row in found["classes"]] == list("0123456789")


def test_the_terminal_shows_classes_and_confusions(trainctl, run: Path) -> None:
    lines = trainctl("eval", "run").out.splitlines()
    found = evaluated(trainctl, "run")
    row = found["classes"][3]
    numbers = [f"{row[key]:.4f}" for key in ("precision", "recall", "f1")]
    assert ["3", *numbers, str(row["support"])] in [line.split() for line in lines]
    counts = [str(count) if count else "." for count in found["confusion"][3]]
    start = lines.index("true class in rows, predicted in columns")
    assert lines[start + 5].split() == ["3", *counts]


def test_all_samples_are_those_of_all_splits(trainctl, run: Path) -> None:
    whole = evaluated(trainctl, "run", "--split", "all")
    parts = [evaluated(trainctl, "run", f"--split={split}") for split in ("train", "val", "test")]
    assert whole["samples"] == sum(part["samples"] for part in parts) == 1797
    total = numpy.sum([part["confusion"] for part in parts], axis=0)
    assert whole["confusion"] == total.tolist()


@pytest.mark.slow
def test_residuals_are_what_numpy_makes_of_them(trainctl) -> None:
    words = ("dataset=synthetic", "dataset.task=regression", "dataset.outputs=2", "dataset.samples=200")
    more = ("dataset.test_samples=50", "model=linear", "loss=mse", "epochs=2", "hydra.run.dir=run")
    assert trainctl(*words, *more, *QUICK).code == 0
    found = evaluated(trainctl, "run")
    from trainctl.components.datasets.synthetic import synthetic

    data = synthetic("regression", 200, 50, outputs=2)
    with torch.no_grad():
        predicted = load("run")(data.transform(data.test.inputs)).double().numpy()
    targets = data.test.targets.double().numpy()
    residual = targets - predicted
    for column, row in enumerate(found["residuals"]):
        assert row["mean"] == pytest.approx(residual[:, column].mean())
        assert row["std"] == pytest.approx(residual[:, column].std())
        assert row["quantiles"]["0.25"] == pytest.approx(numpy.quantile(residual[:, column], 0.25))
        score = (
            1
            - (residual[:, column] ** 2).sum() / ((targets[:, column] - targets[:, column].mean()) ** 2).sum()
        )
        assert row["r2"] == pytest.approx(score)
    worst = numpy.unravel_index(numpy.abs(residual).argmax(), residual.shape)
    first = found["worst"][0]
    assert (first["sample"] - 1, first["output"] - 1) == tuple(map(int, worst))
    assert first["residual"] == pytest.approx(residual[worst])
    assert "residuals: target minus prediction" in trainctl("eval", "run").out


def test_changed_data_is_said(trainctl, table_run: Path, tmp_path: Path) -> None:
    assert "has changed" not in trainctl("eval", "table").out
    write_table(tmp_path / "table.csv", 230, seed=2)
    assert trainctl("eval", "table").code == 2
    outcome = trainctl("eval", "table", "--allow-change")
    assert outcome.code == 0
    assert "the training data is not what the run was trained on: 46 samples in test, not 40" in outcome.out
    assert "samples of this split may have been trained on" in outcome.out
    assert "to the last digit" not in outcome.out


# ------------------------------------------------------------------ other data


def test_other_data_is_prepared_with_the_statistics_and_categories_of_training(
    trainctl, table_run: Path, tmp_path: Path
) -> None:
    """One class, one colour, another mean: found again in this file, each of them would be something else."""
    rows = write_table(tmp_path / "other.csv", 60, seed=3, shift=4.0, colours=("blue", "violet"))
    assert {row[4] for row in rows} == {"yes"}
    found = evaluated(trainctl, "table", "dataset.path=other.csv", "--split", "all")
    assert found["samples"] == 60
    outputs = outputs_by_hand(rows)
    right = int((outputs.argmax(1) == 1).sum())
    assert found["confusion"] == [[0, 0], [60 - right, right]]
    expected = torch.nn.functional.cross_entropy(outputs, torch.ones(60, dtype=torch.int64))
    assert found["values"]["all/loss"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.slow
def test_classes_of_other_data_are_found_by_their_names(trainctl, tmp_path: Path) -> None:
    shades = {"bright": 220, "dark": 30, "middle": 125}
    for folder, names in (("first", list(shades)), ("second", ["middle", "dark"])):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(8):
                image = Image.new("L", (8, 8), shades[name] + number)
                image.save(tmp_path / folder / name / f"{number}.png")
    words = ("dataset=image_folder", "dataset.path=first", "dataset.size=[8,8]", "dataset.channels=1")
    assert trainctl(*words, "epochs=20", "lr=0.02", "batch_size=8", *QUICK, "hydra.run.dir=run").code == 0
    found = evaluated(trainctl, "run", "dataset.path=second", "--split=all")
    assert [row["support"] for row in found["classes"]] == [0, 8, 8]
    assert found["values"]["all/accuracy"] == 1.0
    (tmp_path / "second" / "green").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "second" / "green" / "0.png")
    outcome = trainctl("eval", "run", "dataset.path=second")
    assert outcome.code == 2
    assert "has green, which the model was not trained on" in outcome.err


def test_a_transform_of_ones_own_is_made_from_the_data_of_training(trainctl, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PLUGIN)
    words = ("plugins=[./own.py]", "dataset.name=own", "epochs=20", "batch_size=30", "hydra.run.dir=run")
    assert trainctl(*words, *QUICK).code == 0
    same = evaluated(trainctl, "run")["values"]
    assert same["test/accuracy"] == record(tmp_path / "run")["test"]["test/accuracy"] > 0.8
    # The whole file shifted by 9: with a mean of its own that would not be seen.
    assert evaluated(trainctl, "run", "dataset.shift=9")["values"]["test/loss"] > 2 * same["test/loss"]
    (tmp_path / "own.py").write_text(PLUGIN + "\n# another\n")
    outcome = trainctl("eval", "run")
    assert outcome.code == 3
    assert "--trust-plugins" in outcome.err
    assert trainctl("eval", "run", "--trust-plugins").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset=synthetic",), "samples of shape (20,) float32, the model was trained on (1, 8, 8) uint8"),
        (("dataset=thermometer",), "is for regression, the model was trained for classification"),
        (("dataset=mnits",), "did you mean dataset.name=mnist?"),
        (("dataset.pth=x",), "digits has no argument 'pth'"),
        (("lr=1",), "eval takes only dataset=NAME and dataset.KEY=VALUE"),
        (("dataset=digits,mnist",), "must be a single value"),
        (("--split", "tset"), "did you mean test?"),
        (("--splitt", "test"), "did you mean --split?"),
        (("--split",), "--split: needs a value"),
        (("run",), "eval takes one RUN, not run run"),
        (("--checkpoint", "newest"), "choose one of: best, last"),
    ],
)
def test_words_that_do_not_fit(trainctl, run: Path, words: tuple[str, ...], message: str) -> None:
    outcome = trainctl("eval", "run", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2


def test_a_label_that_is_no_class_is_named(trainctl, table_run: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "other.csv", 10, seed=4)
    text = (tmp_path / "other.csv").read_text()
    (tmp_path / "other.csv").write_text(text.replace(",no\n", ",maybe\n", 1).replace(",yes\n", ",maybe\n", 1))
    outcome = trainctl("eval", "table", "dataset.path=other.csv", "--split=all")
    assert outcome.code == 2
    assert "'maybe' is not a class of the training data" in outcome.err
    assert "there are: no, yes" in outcome.err


def test_without_a_split_it_says_which_there_are(trainctl, tmp_path: Path) -> None:
    words = ("dataset=thermometer", "model=linear", "loss=mse", "batch_size=11", "epochs=1")
    assert trainctl(*words, *QUICK, "hydra.run.dir=run").code == 0
    outcome = trainctl("eval", "run", "--split", "test")
    assert outcome.code == 2
    assert "dataset thermometer has none" in outcome.err
    assert evaluated(trainctl, "run")["split"] == "train"


@pytest.mark.slow
def test_evaluating_leaves_the_compiler_alone(trained: Path, tmp_path: Path) -> None:
    assert "torch._dynamo" not in modules_after("eval", str(trained), cwd=tmp_path)
