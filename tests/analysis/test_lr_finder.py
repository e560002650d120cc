"""The range test: a curve whose best rate is known, what is suggested, and what cannot be."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.runs import record
from tests.helpers.small_run import CPU, FP32
from trainctl.analysis.lr_finder import RangeTest, _smooth, range_test
from trainctl.components.loaders.resident import ResidentLoader
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.data import Split, Standardize
from trainctl.errors import ConfigError, NoLearningRateError
from trainctl.training.build import build
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.loop import train_step
from trainctl.training.run import Run
from trainctl.ui.tune import typed


def built(*words: str) -> Any:
    return build(Composer().compose([to_hydra(word) for word in ("threads=1", "device=cpu", *words)]).config)


class Parts:
    """What the test takes of a built run."""

    def __init__(self, run: Run) -> None:
        self.run, self.trial_step = run, run.step


def quadratic(curvature: float, **arguments: Any) -> RangeTest:
    """Gradient descent on curvature / 2 * weight²: it converges below a rate of 2 / curvature."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    inputs = torch.full((32, 1), math.sqrt(curvature / 2))
    run = Run(
        model=model,
        criterion=nn.MSELoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        scheduler=None,
        train_loader=ResidentLoader(Split(inputs, torch.zeros(32, 1)), Standardize(), 8, CPU, seed=0),
        val_loader=None,
        metrics={},
        precision=FP32,
        total_steps=1,
        step=train_step,
    )
    given = {"start": 1e-7, "end": 10.0, "steps": 100, **arguments}
    return range_test(Parts(run), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("curvature", [0.5, 5.0, 500.0])
def test_the_suggestion_moves_with_the_curvature_and_converges(curvature: float) -> None:
    found = quadratic(curvature, end=1000.0, steps=200)
    assert 0.02 / curvature <= found.suggestion < 2 / curvature
    assert found.steepest <= found.lowest
    assert found.tenth == pytest.approx(found.lowest / 10)
    assert found.exploded is not None
    assert found.exploded > 2 / curvature
    assert len(found.points) < 200


def test_the_rates_grow_by_the_same_factor_and_the_losses_are_those_of_the_steps() -> None:
    found = quadratic(1.0, end=1.0, steps=50)
    assert found.exploded is None
    rates = [point.lr for point in found.points]
    assert (rates[0], rates[-1]) == (pytest.approx(1e-7), pytest.approx(1.0))
    factors = [after / before for before, after in pairwise(rates)]
    assert max(factors) == pytest.approx(min(factors))
    weight = 1.0
    for point in found.points:
        assert point.loss == pytest.approx(weight**2 / 2, rel=1e-4)
        weight -= point.lr * weight
    assert (found.batch_size, found.epochs) == (8, 50 / 4)


def test_smoothing_shifts_nothing() -> None:
    assert _smooth([3.0] * 20, 2.0) == pytest.approx([3.0] * 20)
    line = _smooth([float(number) for number in range(40)], 2.0)
    assert line[10:30] == pytest.approx(list(range(10, 30)))
    step = _smooth([0.0] * 20 + [1.0] * 20, 2.0)
    assert step[19] + step[20] == pytest.approx(1.0)


def test_groups_keep_their_proportion_and_clipping_is_part_of_the_step() -> None:
    run = built("train.clip_norm=0.5").run
    groups = [
        {"params": [item], "lr": lr}
        for item, lr in zip(run.model.parameters(), (0.1, 0.4, *[0.1] * 4), strict=True)
    ]
    run.optimizer = torch.optim.SGD(groups)
    assert any(isinstance(hook, ClipNorm) for hook in run.hooks)
    norms: list[float] = []
    rates: list[tuple[float, float]] = []

    def look(optimizer: Any, *_: Any) -> None:
        norms.append(math.hypot(*(float(item.grad.norm()) for item in run.model.parameters())))
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"]))

    run.optimizer.register_step_post_hook(look)
    range_test(Parts(run), 1e-4, 1.0, 30)  # type: ignore[arg-type]
    assert max(norms) == pytest.approx(0.5, rel=1e-3)
    assert all(other == pytest.approx(4 * first) for first, other in rates)


@pytest.mark.slow
def test_training_with_the_suggestion_beats_a_hundredth_of_it(trainctl, tmp_path: Path) -> None:
    found = range_test(built(), 1e-7, 10.0, 100)
    assert 1e-3 <= found.suggestion <= 3e-2
    for name, lr in (("good", found.suggestion), ("slow", found.suggestion / 100)):
        words = (f"lr={lr}", "epochs=3", "threads=1", "display.mode=none", f"hydra.run.dir={name}")
        assert trainctl(*words).code == 0
    good, slow = (record(tmp_path / name)["best"] for name in ("good", "slow"))
    assert good["val/accuracy"] > slow["val/accuracy"] + 0.1
    assert good["val/loss"] < slow["val/loss"]


# ------------------------------------------------------------------ what holds no learning rate


def test_a_loss_that_does_not_fall() -> None:
    with pytest.raises(NoLearningRateError, match=r"does not fall between learning rates of 1e-09 and 1e-08"):
        range_test(built(), 1e-9, 1e-8, 20)


def test_a_loss_that_explodes_at_once() -> None:
    with pytest.raises(NoLearningRateError, match=r"explodes within \d steps") as raised:
        quadratic(1e7, start=1e-3)
    assert raised.value.problems[0].remedy.startswith("start lower: --from 1e-06")


def test_an_optimizer_without_a_learning_rate() -> None:
    class Fixed:
        param_groups = ({"params": []},)

    run = built().run
    run.optimizer = Fixed()
    with pytest.raises(ConfigError, match="Fixed has no learning rate"):
        range_test(Parts(run), 1e-4, 1.0, 30)  # type: ignore[arg-type]


# ------------------------------------------------------------------ from the command line


def test_it_prints_a_curve_and_the_word_to_type_and_leaves_nothing(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("tune", "lr", "threads=1", "optim=sgd")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0] == "loss over learning rate: mlp on digits, cross_entropy, sgd"
    assert "*" in outcome.out
    assert any(line.startswith("suggestion: lr=") for line in lines)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_json_is_all_there_is_on_standard_output(trainctl, tmp_path: Path) -> None:
    words = ("--json", "--from", "1e-5", "--to=1", "--steps", "40", "scheduler=cosine", "model.dropout=0.2")
    outcome = trainctl("tune", "lr", "threads=1", *words)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["word"] == typed(found["suggestion"])
    assert found["points"][0]["lr"] == pytest.approx(1e-5)
    assert len(found["points"]) <= 40
    assert {"steepest", "lowest", "tenth_of_lowest", "exploded", "batch_size"} <= set(found)


def test_a_picture(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("tune", "lr", "threads=1", "--plot", "lr.svg")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[-1] == "plot: lr.svg"
    assert (tmp_path / "lr.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ((), 2, "tune needs the setting to tune"),
        (("lr=0.1",), 2, "tune needs the setting to tune"),
        (("batch_size",), 2, "tune batch_size: only lr can be tuned"),
        (("lr", "--step", "3"), 2, "did you mean --steps?"),
        (("lr", "--steps", "3"), 2, "--steps 3: must be a whole number, at least 20"),
        (("lr", "--steps"), 2, "--steps: needs a value"),
        (("lr", "--from", "-1"), 2, "--from -1: must be a number greater than 0"),
        (("lr", "--to", "nan"), 2, "--to nan: must be"),
        (("lr", "--from", "1", "--to", "0.1"), 2, "--from 1 --to 0.1: the first must be the smaller"),
        (("lr", "--plot", "lr.txt"), 2, "must be an .svg file"),
        (("lr", "--plot", "nowhere/lr.svg"), 5, "there is no folder nowhere"),
        (("lr", "optm=sgd"), 2, "did you mean optim"),
        (("lr", "--to", "1e-6"), 1, "the loss does not fall"),
    ],
)
def test_what_goes_wrong_is_said(trainctl, words: tuple[str, ...], code: int, expected: str) -> None:
    outcome = trainctl("tune", *words)
    assert outcome.code == code
    assert expected in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_a_loss_that_is_not_finite_from_the_start(trainctl, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = nn.CrossEntropyLoss.forward

    def spoilt(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
        return forward(self, outputs, targets) * float("nan")

    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", spoilt)
    outcome = trainctl("tune", "lr", "threads=1")
    assert outcome.code == 6
    assert "the loss is nan at the first step" in outcome.err
