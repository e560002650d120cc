"""The best evaluation, and when there is no better one any more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers.small_run import make_run
from trainctl.training.hooks.best import Best, is_better
from trainctl.training.run import Run

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("value", "than", "min_delta", "lower_is_better", "expected"),
    [
        (0.5, None, 0.0, True, True),
        (0.4, 0.5, 0.0, True, True),
        (0.5, 0.5, 0.0, True, False),
        (0.6, 0.5, 0.0, True, False),
        (0.6, 0.5, 0.0, False, True),
        (0.5, 0.5, 0.0, False, False),
        (0.4, 0.5, 0.0, False, False),
        (0.45, 0.5, 0.1, True, False),
        (0.35, 0.5, 0.1, True, True),
        (0.75, 0.5, 0.25, False, False),
        (0.76, 0.5, 0.25, False, True),
        (NAN, None, 0.0, True, False),
        (NAN, 0.5, 0.0, True, False),
        (INF, None, 0.0, False, False),
        (-INF, 0.5, 0.0, True, False),
        (-1.0, None, 0.0, False, True),
    ],
)
def test_what_is_better(
    value: float, than: float | None, min_delta: float, lower_is_better: bool, expected: bool
) -> None:
    assert is_better(value, than, min_delta, lower_is_better=lower_is_better) is expected


def watch(values: Sequence[float], lower_is_better: bool = False, **arguments: Any) -> tuple[Run, list[Any]]:
    """Evaluations of these values, one each ten steps, until the run stops; the best step after each."""
    run = make_run()
    name = "val/loss" if lower_is_better else "val/accuracy"
    best = Best(name, lower_is_better=lower_is_better, **arguments)
    steps: list[Any] = []
    for number, value in enumerate(values, 1):
        run.state.step, run.state.epoch = 10 * number, number
        best.evaluated(run, {name: value, "val/other": 1.0})
        steps.append(run.state.best["step"] if run.state.best else None)
        run.obey()
        if run.state.stop:
            break
    return run, steps


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(1.0, 0.9), (1.0, 0.5), (1.0, 0.7)], [10, 20, 20]),
        ([(1.0, 0.5), (1.0, 0.5)], [10, 20]),
        ([(0.9, 0.1), (1.0, 0.9), (0.9, 0.0)], [10, 20, 20]),
        ([(1.0, 0.5), (1.0, NAN), (1.0, INF)], [10, 10, 10]),
        ([(1.0, NAN), (1.0, 0.5)], [10, 20]),
        ([(1.0, None), (1.0, None)], [10, 20]),
    ],
)
def test_ties_go_to_the_lower_loss_then_to_the_later(
    evaluations: Sequence[tuple[float, float | None]], best: list[int]
) -> None:
    run, hook, steps = make_run(), Best("val/accuracy", lower_is_better=False), []
    for number, (accuracy, loss) in enumerate(evaluations, 1):
        run.state.step = 10 * number
        hook.evaluated(run, {"val/accuracy": accuracy, **({} if loss is None else {"val/loss": loss})})
        assert run.state.best is not None
        steps.append(run.state.best["step"])
    assert steps == best


def test_the_lower_loss_of_a_tie_wears_patience_out_all_the_same() -> None:
    run, hook = make_run(), Best("val/accuracy", 2, lower_is_better=False)
    for step, loss in ((10, 0.9), (20, 0.5), (30, 0.4)):
        run.state.step = step
        hook.evaluated(run, {"val/accuracy": 1.0, "val/loss": loss})
        run.obey()
    assert run.state.best is not None
    assert (run.state.best["step"], run.state.stop) == (30, "no better val/accuracy for 2 evaluations")


def test_what_is_not_finite_is_never_the_best() -> None:
    run, steps = watch([NAN, INF, 0.3, NAN, -INF, 0.2, 0.4])
    assert steps == [None, None, 30, 30, 30, 30, 70]
    assert run.state.last is not None
    assert run.state.last["val/accuracy"] == 0.4
    assert watch([NAN, NAN])[0].state.best is None
    assert watch([0.5, -INF], lower_is_better=True)[1] == [10, 10]


def test_best_and_last_are_values_of_their_own() -> None:
    run, _ = watch([0.5])
    assert run.state.best == run.state.last
    assert run.state.best is not run.state.last


def test_without_patience_a_run_never_stops() -> None:
    run, steps = watch([0.5] + [0.1] * 50)
    assert run.state.stop is None
    assert len(steps) == 51
    assert run.state.num_bad_epochs == 50


@pytest.mark.parametrize(
    ("values", "patience", "evaluations"),
    [
        ([0.5, 0.4, 0.4, 0.9], 1, 2),
        ([0.5, 0.4, 0.4, 0.9], 2, 3),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.9], 2, 5),
        ([0.5, 0.5, 0.5, 0.5], 3, 4),
        ([NAN, NAN, NAN], 2, 2),
        ([0.5, NAN, NAN, 0.9], 2, 3),
    ],
)
def test_patience_counts_evaluations_without_improvement(
    values: list[float], patience: int, evaluations: int
) -> None:
    run, steps = watch(values, patience=patience)
    assert len(steps) == evaluations
    assert run.state.stop == f"no better val/accuracy for {patience} evaluations"


def test_a_small_improvement_is_the_best_and_wears_patience_out_all_the_same() -> None:
    run, steps = watch([0.50, 0.51, 0.52, 0.53], patience=3, min_delta=0.1)
    assert steps == [10, 20, 30, 40]
    assert run.state.stop == "no better val/accuracy for 3 evaluations"


def test_small_improvements_add_up() -> None:
    """What counts is the gain over the last improvement that was large enough."""
    run, _ = watch([0.50, 0.56, 0.62, 0.68, 0.74], patience=2, min_delta=0.1)
    assert run.state.stop is None


def test_values_without_the_monitored_one_change_nothing_but_the_newest() -> None:
    run = make_run()
    Best("val/accuracy", 1, lower_is_better=False).evaluated(run, {})
    assert (run.state.best, run.state.num_bad_epochs, run.state.stop) == (None, 0, None)
    assert run.state.last == run.state.where
