"""Targets of a regression: scaled for the loss, in the user's unit everywhere else."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from tests.training.test_build import configured
from trainctl import load
from trainctl.data import Data, Split, Standardize
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, LOSSES
from trainctl.training.build import build
from trainctl.training.targets import statistics

FAST = ("threads=1", "display.mode=plain")
TABLE = ("dataset=csv", "dataset.path=t.csv", "loss=mse", "model=linear", "lr=0.1", "batch_size=32", *FAST)


def write(center: float, width: float = 3.0, name: str = "t.csv", rows: int = 200) -> None:
    """A table whose target lies around ``center`` and follows from two numbers."""
    draw = random.Random(0)
    with Path(name).open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["a", "b", "y"])
        for _ in range(rows):
            a, b = round(draw.gauss(0, 1), 4), round(draw.gauss(5, 2), 4)
            out.writerow([a, b, repr(center + width * (a - 0.3 * b))])


def values(run: str, kind: str = "test") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run, "run.json").read_text())[kind]
    return found


# ------------------------------------------------------------------ scaled


def test_targets_far_from_zero_train_and_keep_their_digits(trainctl) -> None:
    write(1e8)
    outcome = trainctl(*TABLE, "epochs=60", "hydra.run.dir=r")
    assert outcome.code == 0
    assert "targets   scaled by the training split (mean 1e+08, deviation " in outcome.out
    assert values("r")["test/r2"] > 0.9999
    assert values("r")["test/mae"] < 0.02
    scale = json.loads(Path("r/run.json").read_text())["target_scale"]
    assert len(scale["mean"]) == len(scale["std"]) == 1
    evaluated = trainctl("eval", "r")
    assert "the same as recorded in the run, to the last digit" in evaluated.out
    assert trainctl("predict", "r", "--input", "t.csv", "--output", "p.csv").code == 0
    with Path("p.csv").open() as mine, Path("t.csv").open() as given:
        for prediction, row in zip(csv.DictReader(mine), csv.DictReader(given), strict=True):
            assert abs(float(prediction["prediction"]) - float(row["y"])) < 0.1


def test_metrics_are_in_the_unit_of_the_data_and_the_loss_in_deviations(trainctl) -> None:
    write(5000.0, width=200.0)
    assert trainctl(*TABLE, "epochs=2", "hydra.run.dir=r").code == 0
    [std] = json.loads(Path("r/run.json").read_text())["target_scale"]["std"]
    found = values("r")
    assert found["test/mse"] == pytest.approx(found["test/loss"] * std**2, rel=1e-5)


def test_each_output_has_its_own_scale() -> None:
    targets = torch.tensor([[1e8, 0.0, 7.0], [1e8 + 1, 2.0, 7.0]], dtype=torch.float64)
    assert statistics(targets) == ([1e8 + 0.5, 1.0, 7.0], [0.5, 1.0, 1.0])
    assert statistics(targets.reshape(2, 3, 1)[:, 1:2]) == (1.0, 1.0)


def test_only_the_training_split_counts(trainctl) -> None:
    write(10.0)
    held = [("dataset.val=0.5", "dataset.split_seed=1"), ("dataset.val=0.5", "dataset.split_seed=2")]
    for number, words in enumerate(held):
        assert trainctl(*TABLE, "epochs=1", *words, f"hydra.run.dir=r{number}").code == 0
    scales = [json.loads(Path(run, "run.json").read_text())["target_scale"] for run in ("r0", "r1")]
    assert scales[0] != scales[1]


@pytest.mark.slow
def test_exports_and_load_give_the_unit_of_the_data(trainctl) -> None:
    write(2000.0, width=0.5)
    assert trainctl(*TABLE, "epochs=40", "hydra.run.dir=r").code == 0
    for kind in ("torch", "safetensors"):
        assert trainctl("export", "r", "--format", kind).code == 0
    raw = torch.tensor([[0.0, 5.0], [1.0, 3.0]])
    with torch.no_grad():
        program = torch.export.load("r.pt2").module()(raw)
    assert program.dtype == torch.float64, "float32 has four decimals around 2000"
    torch.testing.assert_close(
        program.flatten(), torch.tensor([1999.25, 2000.05]).double(), atol=0.01, rtol=0
    )
    described = json.loads(next(Path("r/checkpoints").glob("*/state.json")).read_text())["data"]
    stored = described["transform"]["tensors"]
    mean, std = (torch.tensor(stored[name]["values"]) for name in ("mean", "std"))
    model = load("r")
    with torch.no_grad():
        torch.testing.assert_close(model((raw - mean) / std), program)
    assert set(model.state_dict()) == {"linear.weight", "linear.bias"}


@pytest.mark.slow
def test_a_fused_sweep_gives_what_each_run_gives(trainctl) -> None:
    write(3000.0)
    assert (
        trainctl("-m", *TABLE, "epochs=2", "lr=0.1,0.01", "hydra/launcher=fused", "hydra.sweep.dir=s").code
        == 0
    )
    assert trainctl(*TABLE, "epochs=2", "hydra.run.dir=r").code == 0
    record = json.loads(Path("s/0/run.json").read_text())
    assert (record["engine"], record["target_scale"] is None) == ("fused", False)
    assert values("s/0")["test/mae"] == pytest.approx(values("r")["test/mae"], rel=1e-6)


@pytest.mark.slow
def test_runs_of_scaled_and_of_raw_losses_are_ranked_apart(trainctl) -> None:
    write(10.0)
    assert trainctl(*TABLE, "epochs=1", "hydra.run.dir=runs/a").code == 0
    assert trainctl(*TABLE, "epochs=1", "dataset.scale_target=false", "hydra.run.dir=runs/b").code == 0
    outcome = trainctl("compare", "runs")
    assert "under loss mse of scaled targets: 1 setting" in outcome.out
    assert "under loss mse: 1 setting" in outcome.out


# ------------------------------------------------------------------ goes on in the unit it has


@pytest.mark.slow
def test_resume_keeps_the_scale_and_verify_finds_the_same(trainctl) -> None:
    write(5000.0)
    assert trainctl(*TABLE, "epochs=3", "hydra.run.dir=r").code == 0
    assert trainctl("resume", "r", "train.epochs=4", *FAST).code == 0
    assert "identical" in trainctl("verify", "r").out.splitlines()[-1]
    refused = trainctl("resume", "r", "dataset.scale_target=false", "--allow-change")
    assert refused.code == 2
    assert "the model's outputs are in the unit that it was trained with" in refused.err


@pytest.mark.slow
def test_weights_of_another_run_keep_its_unit(trainctl) -> None:
    write(5000.0)
    write(8000.0, width=20, name="other.csv")
    assert trainctl(*TABLE, "epochs=20", "hydra.run.dir=r").code == 0
    more = ("init_from=r", "epochs=1", "lr=1e-6", "dataset.path=other.csv")
    assert trainctl(*TABLE, *more, "hydra.run.dir=more").code == 0
    scales = [json.loads(Path(run, "run.json").read_text())["target_scale"] for run in ("r", "more")]
    assert scales[0] == scales[1]
    assert trainctl(*TABLE, *more, "dataset.scale_target=true", "hydra.run.dir=own").code == 0
    assert json.loads(Path("own/run.json").read_text())["target_scale"] != scales[0]


# ------------------------------------------------------------------ raw


@pytest.mark.parametrize(
    "words",
    [
        ("dataset=thermometer", "model=linear", "loss=mse", "optim=sgd", "lr=0.01", "batch_size=11"),
        ("dataset=synthetic", "dataset.task=regression", "loss=mse"),
    ],
)
def test_the_data_of_the_tutorials_stays_as_it_is(trainctl, words: tuple[str, ...]) -> None:
    assert trainctl(*words, "train.max_steps=2", "epochs=1", "hydra.run.dir=r", *FAST).code == 0
    assert json.loads(Path("r/run.json").read_text())["target_scale"] is None


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("loop=derivatives", "optim=sgd"), "loop=derivatives takes targets as they are"),
        (("loss=poisson_nll",), "loss=poisson_nll takes targets as they are"),
        (("loss=mse", "dataset.task=classification"), "the targets are class numbers"),
    ],
)
def test_what_cannot_be_scaled_says_so_or_refuses(trainctl, words: tuple[str, ...], why: str) -> None:
    write(50.0, width=0.5) if "classification" not in words[-1] else Path("t.csv").write_text(
        "a,y\n" + "".join(f"{row % 7},{row % 2}\n" for row in range(60))
    )
    if "class numbers" not in why:
        outcome = trainctl(*TABLE, *words, "epochs=1", "hydra.run.dir=r")
        assert f"not scaled: {why}" in outcome.out
        assert json.loads(Path("r/run.json").read_text())["target_scale"] is None
    outcome = trainctl(*TABLE, *words, "epochs=1", "dataset.scale_target=true")
    assert outcome.code == 2
    assert f"dataset.scale_target=true: {why}" in outcome.err


@pytest.mark.slow
def test_raw_targets_that_float32_merges_are_named(trainctl) -> None:
    write(1e9)
    outcome = trainctl(*TABLE, "epochs=1", "dataset.scale_target=false")
    assert "float32 cannot tell the targets apart: 144 different values become 1" in outcome.out
    assert "dataset.scale_target=auto keeps them apart" in outcome.out


@DATASETS.register("given_values")
def given_values(targets: str = "float64", task: str = "regression") -> Data:
    """Forty samples whose targets are of some type and shape."""
    inputs = torch.linspace(-1, 1, 40).unsqueeze(1)
    made: Any = inputs.squeeze(1) * 3 + 7
    made = {
        "float64": made.double(),
        "int32": made.round().to(torch.int32),
        "uint8": made.round().to(torch.uint8),
        "bool": made > 7,
        "list": made.tolist(),
        "column": made.unsqueeze(1),
        "nan": made.where(torch.arange(40) != 5, torch.nan),
        "huge": made.double().where(torch.arange(40) != 5, 1e300),
        "images": made.reshape(40, 1, 1).expand(40, 2, 3),
    }[targets]
    outputs = 6 if targets == "images" else 1
    return Data("given", task, Split(inputs, made), None, (1,), outputs, Standardize())


def built_with(loss: str = "mse", **dataset: Any) -> Any:
    DATASETS.register("given_values")(given_values)
    return build(
        configured(
            dataset={"name": "given_values", **dataset},
            model={"name": "linear"},
            loss={"name": loss},
            train={"batch_size": 8},
        )
    )


@pytest.mark.parametrize("targets", ["float64", "int32", "uint8", "bool", "list", "column"])
def test_targets_of_any_type_are_scaled(targets: str) -> None:
    train = built_with(targets=targets, scale_target="auto").data.train.targets
    assert (train.dtype, train.shape[1:]) == (torch.float32, (1,))
    assert float(train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(train.std(correction=0)) == pytest.approx(1)


@pytest.mark.parametrize(("targets", "bad"), [("nan", "nan"), ("huge", r"1e\+300")])
def test_targets_that_are_not_finite_are_refused(targets: str, bad: str) -> None:
    with pytest.raises(ConfigError, match=f"target 6 is {bad}, not finite in float32; 1 such values"):
        built_with(targets=targets, scale_target=False, val=0)


# ------------------------------------------------------------------ what metrics compare


def counts(path: str = "p.npz") -> None:
    generator = numpy.random.default_rng(0)
    inputs = generator.normal(size=(600, 2)).astype("float32")
    rate = numpy.exp(1.0 + 0.8 * inputs[:, 0])
    numpy.savez(path, x=inputs, y=generator.poisson(rate).astype("float32"))


@pytest.mark.slow
def test_rates_are_compared_with_counts(trainctl) -> None:
    counts()
    words = ("dataset=npz", "dataset.path=p.npz", "loss=poisson_nll", "model=linear", "lr=0.05", *FAST)
    assert trainctl(*words, "epochs=15", "hydra.run.dir=r").code == 0
    assert values("r")["test/r2"] > 0.5
    assert trainctl("predict", "r", "--input", "p.npz", "--output", "p.csv").code == 0
    with Path("p.csv").open() as file:
        predicted = [float(row["prediction"]) for row in csv.DictReader(file)]
    assert min(predicted) > 0
    assert max(predicted) > 10
    assert trainctl("export", "r", "--format", "torch", "--output", "m.pt2").code == 0
    with torch.no_grad():
        program = torch.export.load("m.pt2").module()(torch.from_numpy(numpy.load("p.npz")["x"]))
    torch.testing.assert_close(program.flatten(), torch.tensor(predicted), rtol=1e-5, atol=1e-6)
    plain = trainctl(*words, "loss.log_input=false", "lr=1e-4", "epochs=1", "hydra.run.dir=n")
    assert plain.code in (0, 6), "a rate below 0 has no logarithm"


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("loss", "targets", "low"), [("bce_with_logits", "binary", 0), ("soft_margin", "sign", -1)]
)
def test_probabilities_are_compared_with_zeros_and_ones(trainctl, loss: str, targets: str, low: int) -> None:
    words = ("dataset=synthetic", "dataset.task=regression", f"++dataset.targets={targets}", f"loss={loss}")
    assert trainctl(*words, "epochs=5", "lr=0.01", "hydra.run.dir=r", *FAST).code == 0
    assert 0.5 < values("r")["test/r2"] < 1
    outcome = trainctl("eval", "r", "--json")
    assert all(low <= each["prediction"] <= 1 for each in json.loads(outcome.out)["worst"])


@pytest.mark.quick(1)
@pytest.mark.parametrize(("loss", "targets"), [("hinge_embedding", "sign"), ("multi_label_margin", "labels")])
def test_scores_are_compared_with_nothing(trainctl, loss: str, targets: str) -> None:
    words = ("dataset=synthetic", "dataset.task=regression", f"++dataset.targets={targets}", f"loss={loss}")
    assert trainctl(*words, "epochs=1", "hydra.run.dir=r", *FAST).code == 0
    assert [name for name in values("r") if name.startswith("test/")] == ["test/loss"]
    assert trainctl("eval", "r").code == 0
    refused = trainctl(*words, "epochs=1", "train.metrics=[mse]", *FAST)
    assert refused.code == 2
    assert "do not compare with the targets" in refused.err


def test_a_loss_of_ones_own_says_what_its_outputs_are() -> None:
    class Own(nn.Module):
        target = "value"

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().mean()

    LOSSES.register("own")(Own)
    assert built_with("own", scale_target="auto").data.readout.described() is None
    Own.output = "value"  # type: ignore[attr-defined]
    assert built_with("own", scale_target="auto").data.readout.described() is not None
    Own.output = "odds"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="the loss declares output='odds'"):
        built_with("own", scale_target="auto")
