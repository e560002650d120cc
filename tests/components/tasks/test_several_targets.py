"""Several targets of a table: values in units of their own, and labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests.helpers.ranks import warm_ranks as warm_ranks
from tests.helpers.trained import PROGRAMS
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, LOSSES, TASKS
from trainctl.training.build import build

QUICK = ("threads=1", "display.mode=none", "train.batch_size=32", "model.hidden=[16]", "lr=0.01")
VALUES = ("dataset=csv", "dataset.path=values.csv", "dataset.target=[small,big]", "loss=mse")
LABELS = ("dataset=csv", "dataset.path=labels.csv", "loss=bce_with_logits")


@pytest.fixture
def tables(tmp_path: Path) -> None:
    draw = numpy.random.default_rng(0)
    x = draw.normal(size=(200, 3)).round(4)
    small, big = x[:, 0] - x[:, 1], 5000 + 1000 * x[:, 1] + 10 * x[:, 2]
    held = [["cat"] * int(a > 0) + ["dog"] * int(b > 0) for a, b in zip(x[:, 0], x[:, 1], strict=True)]
    put(tmp_path / "values.csv", "a,small,b,big,c", zip(x[:, 0], small, x[:, 1], big, x[:, 2], strict=True))
    put(
        tmp_path / "labels.csv",
        "a,b,c,cat,dog,held",
        (
            [*row, int("cat" in each), int("dog" in each), ";".join(each)]
            for row, each in zip(x, held, strict=True)
        ),
    )


def put(path: Path, header: str, rows: Any) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("tables")
def test_values_in_their_own_units_from_training_to_predictions(trainctl: Callable[..., Any]) -> None:
    assert trainctl(*VALUES, *QUICK, "epochs=15", "name=values").code == 0
    scored = json.loads(trainctl("eval", "values", "--json").out)
    # Each target has its own scale: both are learned, though one is a thousand times the other.
    assert [each["name"] for each in scored["residuals"]] == ["small", "big"]
    assert min(each["r2"] for each in scored["residuals"]) > 0.95
    assert scored["values"]["test/r2"] == pytest.approx(
        sum(each["r2"] for each in scored["residuals"]) / 2, abs=1e-6
    )
    assert {each["name"] for each in scored["worst"]} <= {"small", "big"}
    assert trainctl("predict", "values", "--input", "values.csv", "--output", "out.csv").code == 0
    predicted, given = rows_of("out.csv"), rows_of("values.csv")
    assert list(predicted[0]) == ["row", "prediction_small", "prediction_big", "error"]
    errors = [float(p["prediction_big"]) - float(g["big"]) for p, g in zip(predicted, given, strict=True)]
    assert numpy.std(errors) < 300
    assert trainctl("predict", "values", "--input", "values.csv", "--output", "out.jsonl").code == 0
    first = json.loads(Path("out.jsonl").read_text().splitlines()[0])
    assert first["prediction"] == {
        "small": float(predicted[0]["prediction_small"]),
        "big": float(predicted[0]["prediction_big"]),
    }
    # Targets may change places in another file.
    names = ("big", "c", "b", "a", "small")
    put(Path("turned.csv"), ",".join(names), ([row[name] for name in names] for row in given))
    same = [
        json.loads(trainctl("eval", "values", "--json", "--split", "all", f"dataset.path={path}").out)
        for path in ("values.csv", "turned.csv")
    ]
    assert same[0]["values"] == same[1]["values"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": ["small", "small"]}, "names column 2 (small) twice"),
        ({"target": []}, "is empty"),
        ({"target": ["small", "bigg"]}, "did you mean big?"),
        ({"target": ["small", "big"], "drop": ["big"]}, "both name column 4 (big)"),
        ({"target": ["small", 4], "task": "classification"}, "has one target, dataset.target names 2"),
        ({"target": ["small", "big"], "task": "multilabel"}, "a label is 0 or 1"),
        ({"target": ["small", "big"], "separator": ";"}, "divides one column"),
        ({"target": "small", "separator": ";", "task": "regression"}, "is for dataset.task=multilabel"),
        ({"target": "small", "task": "multilabel"}, "a label is 0 or 1"),
    ],
)
@pytest.mark.usefixtures("tables")
def test_wrong_targets_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        DATASETS.load("csv")("values.csv", **settings)
    assert said in f"{error.value.problems[0].message} {error.value.problems[0].remedy}"


@pytest.mark.usefixtures("tables")
def test_a_row_without_one_of_its_targets_is_left_out_and_said() -> None:
    rows = rows_of("values.csv")
    rows[3]["big"] = ""
    put(Path("values.csv"), ",".join(rows[0]), (row.values() for row in rows))
    data = DATASETS.load("csv")("values.csv", target=["small", "big"], test=0)
    assert len(data.train) == len(rows) - 1
    assert "left out 1 row without all targets" in data.note


# ------------------------------------------------------------------ labels


@pytest.mark.usefixtures("tables")
def test_columns_of_labels_and_texts_of_labels_are_the_same_targets() -> None:
    read = DATASETS.load("csv")
    columns = read("labels.csv", target=["cat", "dog"], drop=["held"], test=0)
    texts = read("labels.csv", target="held", separator=";", drop=["cat", "dog"], test=0)
    assert columns.task == texts.task == "multilabel"
    assert columns.classes == texts.classes == ("cat", "dog")
    assert torch.equal(columns.train.targets, texts.train.targets)
    # A sample without labels is a sample.
    assert bool((texts.train.targets.sum(1) == 0).any())
    assert "rows without any" in texts.note


@pytest.mark.usefixtures("tables")
def test_labels_from_training_to_thresholds(trainctl: Callable[..., Any]) -> None:
    words = (*LABELS, "dataset.target=held", "dataset.separator=;", "dataset.drop=[cat,dog]")
    assert trainctl(*words, *QUICK, "epochs=20", "name=labels").code == 0
    scored = json.loads(trainctl("eval", "labels", "--json").out)
    assert set(scored["values"]) == {"test/loss", "test/f1_micro", "test/f1_macro", "test/map"}
    assert scored["values"]["test/f1_micro"] > 0.9
    rows = scored["classes"]
    assert scored["values"]["test/f1_macro"] == pytest.approx(sum(row["f1"] for row in rows) / 2)
    assert scored["confusion"] == []
    for threshold, limits in (
        ((), (0.5, 0.5)),
        (("--threshold", "0.9"), (0.9, 0.9)),
        (("--threshold", "dog=0.1"), (0.5, 0.1)),
    ):
        assert (
            trainctl("predict", "labels", "--input", "labels.csv", "--output", "out.csv", *threshold).code
            == 0
        )
        for row in rows_of("out.csv"):
            chosen = [
                name
                for name, limit in zip(("cat", "dog"), limits, strict=True)
                if float(row[f"probability_{name}"]) >= limit
            ]
            assert row["prediction"] == ";".join(chosen)
    outcome = trainctl(
        "predict", "labels", "--input", "labels.csv", "--output", "out.csv", "--threshold", "dgo=0.1"
    )
    assert outcome.code == 2
    assert "did you mean dog?" in outcome.err
    assert (
        trainctl("predict", "labels", "--input", "labels.csv", "--output", "o.csv", "--threshold", "7").code
        == 2
    )


@pytest.mark.usefixtures("tables")
def test_labels_never_train_as_values_without_a_word(trainctl: Callable[..., Any]) -> None:
    outcome = trainctl(
        "dataset=csv",
        "dataset.path=labels.csv",
        "dataset.target=[cat,dog]",
        "dataset.drop=[held]",
        "loss=mse",
    )
    assert outcome.code == 2
    assert (
        "the targets are labels (0 or 1): use loss=bce_with_logits, or dataset.task=regression" in outcome.err
    )
    x, y = torch.randn(60, 3).numpy(), (torch.rand(60, 2) > 0.5).int().numpy()
    for kind in ("float32", "int64", "bool"):
        numpy.savez("arrays.npz", x=x, y=y.astype(kind))
        assert DATASETS.load("npz")("arrays.npz").task == "multilabel"


def test_a_loss_of_ones_own_says_whether_outputs_are_logits(trainctl: Callable[..., Any]) -> None:
    Path("own.py").write_text(
        "from torch import nn\n"
        "from trainctl.registry import LOSSES\n"
        "@LOSSES.register('own')\n"
        "class Own(nn.Module):\n"
        "    def forward(self, outputs, targets):\n"
        "        return nn.functional.binary_cross_entropy_with_logits(outputs, targets)\n"
    )
    words = (
        "plugins=[./own.py]",
        "loss.name=own",
        "dataset=synthetic",
        "dataset.task=multilabel",
        "epochs=1",
    )
    outcome = trainctl(*words, "display.mode=none")
    assert outcome.code == 2
    assert "the loss Own does not say what an output is" in outcome.err


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (torch.tensor([0, 1, 1]), r"int64 of shape \(3,\); labels have the shape \(N, labels\)"),
        (
            torch.tensor([[0.0, 0.5]]),
            r"target 1 has 0.5 for label 1; labels are 0 or 1 \(float32 of shape \(1, 2\)\)",
        ),
        (torch.tensor([[0, 2]]), "target 1 has 2 for label 1"),
        (torch.tensor([[0.0, torch.nan]]), "has nan for label 1"),
    ],
)
def test_targets_that_are_no_labels_are_refused_with_shape_and_remedy(
    targets: torch.Tensor, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        TASKS.load("multilabel")().converted("dataset made: train", targets)
    assert "dataset.task=" in error.value.problems[0].remedy


@pytest.mark.slow
@pytest.mark.usefixtures("tables", "warm_ranks")
@pytest.mark.parametrize("words", [VALUES, (*LABELS, "dataset.target=[cat,dog]", "dataset.drop=[held]")])
def test_two_devices_a_sweep_and_exports(words: tuple[str, ...], trainctl: Callable[..., Any]) -> None:
    assert trainctl(*words, *QUICK, "epochs=3", "name=one").code == 0
    assert trainctl(*words, *QUICK, "epochs=3", "name=two", "devices=2", "device=cpu").code == 0
    one, two = (json.loads(trainctl("eval", name, "--json").out)["values"] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)
    assert trainctl("-m", *words, *QUICK, "epochs=3", "seed=0,1").code == 0
    for kind in (*PROGRAMS, "safetensors"):
        outcome = trainctl("export", "one", "--format", kind)
        assert outcome.code == 0, outcome.err


@pytest.mark.usefixtures("tables")
def test_rare_labels_weigh_more_and_labels_are_smoothed(trainctl: Callable[..., Any]) -> None:
    words = (*LABELS, "dataset.target=held", "dataset.separator=;", "dataset.drop=[cat,dog]")
    config = Composer().compose([*map(to_hydra, words), "++loss.pos_weight=balanced"]).config
    built = build(config)
    held = built.data.train.targets.sum(0)
    total = len(built.data.train)
    torch.testing.assert_close(built.run.criterion.pos_weight, (total - held) / held)
    # A run, its evaluation and its resume make the same loss again.
    more = ("loss.pos_weight=balanced", "loss.label_smoothing=0.2")
    assert trainctl(*words, *QUICK, *more, "epochs=2", "name=rare").code == 0
    scored = json.loads(trainctl("eval", "rare", "--json").out)
    assert scored["recorded"] == scored["values"]
    assert trainctl("resume", "rare", "epochs=3").code == 0
    outcome = trainctl(*VALUES[:-1], "loss=bce_with_logits", "loss.pos_weight=balanced")
    assert outcome.code == 2
    outputs, targets = torch.randn(4, 2), torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]])
    loss = LOSSES.load("bce_with_logits")(label_smoothing=0.2)(outputs, targets)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets * 0.8 + 0.1)
    torch.testing.assert_close(loss, expected)


def test_balanced_weights_need_labels() -> None:
    with pytest.raises(ConfigError, match="requires labels"):
        LOSSES.load("bce_with_logits")(torch.tensor([3, 4]), pos_weight="balanced")
