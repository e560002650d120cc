"""Every scheduler: the learning rate of each step, against torch's own, stepped where its users step it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler

from trainctl.config.settings import Component
from trainctl.registry import SCHEDULERS
from trainctl.training.construct import construct

EPOCHS, STEPS = 6, 5
TOTAL = EPOCHS * STEPS


def optimizer(**arguments: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8, **arguments)


def trace(name: str, **arguments: object) -> list[float]:
    own = optimizer()
    scheduler = construct(
        Component("scheduler", name, dict(arguments)),
        optimizer=own,
        total_steps=TOTAL,
        steps_per_epoch=STEPS,
        lower_is_better=True,
    )
    rates = []
    for _ in range(TOTAL):
        rates.append(own.param_groups[0]["lr"])
        own.step()
        scheduler.step()
    return rates


def stock(make, *, by_epoch: bool) -> list[float]:
    own = optimizer()
    scheduler = make(own)
    rates = []
    for step in range(TOTAL):
        rates.append(own.param_groups[0]["lr"])
        own.step()
        if not by_epoch or (step + 1) % STEPS == 0:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "make", "by_epoch"),
    [
        (("step", {"epochs": 2, "gamma": 0.5}), lambda own: lr_scheduler.StepLR(own, 2, 0.5), True),
        (
            ("multi_step", {"milestones": [1, 4], "gamma": 0.1}),
            lambda own: lr_scheduler.MultiStepLR(own, [1, 4], 0.1),
            True,
        ),
        (("exponential", {"gamma": 0.7}), lambda own: lr_scheduler.ExponentialLR(own, 0.7), True),
        (
            ("one_cycle", {"warmup_share": 0.4}),
            lambda own: lr_scheduler.OneCycleLR(
                own, 0.8, total_steps=TOTAL, pct_start=0.4, cycle_momentum=False
            ),
            False,
        ),
        (
            ("cosine_restarts", {"epochs": 2, "factor": 2}),
            lambda own: lr_scheduler.CosineAnnealingWarmRestarts(own, 2 * STEPS, 2),
            False,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_it_follows_torchs(ours: tuple[str, dict[str, object]], make, by_epoch: bool) -> None:
    name, arguments = ours
    assert trace(name, **arguments) == pytest.approx(stock(make, by_epoch=by_epoch), rel=1e-9)


def test_linear_and_polynomial_by_their_formulas() -> None:
    rates = trace("linear", warmup=4, final=0.25)
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    progress = [(step - 4) / (TOTAL - 5) for step in range(4, TOTAL)]
    assert rates[4:] == pytest.approx([0.8 * (0.25 + 0.75 * (1 - share)) for share in progress])
    assert trace("polynomial", power=3.0) == pytest.approx(
        [0.8 * (1 - step / (TOTAL - 1)) ** 3 for step in range(TOTAL)]
    )


def test_one_cycle_gives_plain_gradient_descent_no_momentum() -> None:
    own = optimizer()
    construct(Component("scheduler", "one_cycle"), optimizer=own, total_steps=10)
    assert own.param_groups[0]["momentum"] == 0
    with_momentum = optimizer(momentum=0.9)
    construct(Component("scheduler", "one_cycle"), optimizer=with_momentum, total_steps=10)
    assert with_momentum.param_groups[0]["momentum"] == pytest.approx(0.95)


@pytest.mark.parametrize("name", SCHEDULERS.names())
@pytest.mark.slow
def test_it_trains_by_name(trainctl, name: str) -> None:
    outcome = trainctl(f"scheduler={name}", "train.max_steps=25", "threads=1")
    assert outcome.code == 0, outcome.err


def test_a_plateau_is_seen_at_evaluations(trainctl, tmp_path: Path) -> None:
    words = ("scheduler=reduce_on_plateau", "scheduler.patience=0", "scheduler.factor=0.5", "optim=sgd")
    # A learning rate that is far too large makes the validation loss worse at once.
    assert trainctl(*words, "lr=0.9", "epochs=12", "threads=1", "hydra.run.dir=run").code == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    rates = {line["epoch"]: line["lr"] for line in lines if "train/loss" in line}
    accuracies = [line["val/accuracy"] for line in lines if "val/accuracy" in line]
    expected, best = [0.9], float("-inf")
    for accuracy in accuracies:
        better = accuracy > best * 1.0001 if best > 0 else True
        expected.append(expected[-1] if better else expected[-1] * 0.5)
        best = max(best, accuracy) if better else best
    assert [rates[epoch] for epoch in range(1, 13)] == pytest.approx(expected[:12])


def test_a_plateau_needs_validation_data(trainctl) -> None:
    outcome = trainctl("scheduler=reduce_on_plateau", "dataset.val=0")
    assert outcome.code == 2
    assert "needs validation data" in outcome.err


def test_milestones_must_increase(trainctl) -> None:
    assert "epochs must increase" in trainctl("scheduler=multi_step", "scheduler.milestones=[5,2]").err
