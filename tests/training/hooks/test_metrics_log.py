"""``metrics.jsonl``: every step and every evaluation once, in JSON that every program can read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_loop import Recorder, make_run
from trainctl.training.run import Hook
from trainctl.training.hooks.metrics_log import MetricsLog
from trainctl.training.loop import fit
from trainctl.training.run import Run


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines, parsed as other programs do: NaN and Infinity are not JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = path.read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def logged(run: Run, path: Path = Path("metrics.jsonl")) -> list[dict[str, Any]]:
    log = MetricsLog(path)
    run.hooks.append(log)
    fit(run)
    log.close()
    return lines(path)


def test_every_step_has_one_line_with_its_own_values() -> None:
    recorder = Recorder()
    run = make_run(total_steps=16, hooks=[recorder])
    run.scheduler = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.5)
    steps = [line for line in logged(run) if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 17))
    assert [line["epoch"] for line in steps] == [1] * 7 + [2] * 7 + [3] * 2
    assert [line["train/loss"] for line in steps] == recorder.losses
    assert [line["lr"] for line in steps] == recorder.rates
    assert all(set(line) == {"step", "epoch", "train/loss", "lr"} for line in steps)


def test_every_evaluation_has_one_line_after_the_steps_before_it() -> None:
    recorder = Recorder()
    content = logged(make_run(total_steps=16, hooks=[recorder]))
    evaluations = [line for line in content if "val/loss" in line]
    assert [(line["step"], line["epoch"]) for line in evaluations] == [(7, 1), (14, 2), (16, 3)]
    assert [line["val/loss"] for line in evaluations] == [values["val/loss"] for values in recorder.values]
    assert all(line["samples_per_second"] > 0 for line in evaluations)
    assert [line["step"] for line in content] == sorted(line["step"] for line in content)


@pytest.mark.parametrize("steps", [256, 257, 600])
def test_no_step_is_lost_between_two_writings(steps: int) -> None:
    content = logged(make_run(total_steps=steps, samples=8000, val=0))
    assert [line["step"] for line in content] == list(range(1, steps + 1))


def test_without_validation_there_are_steps_only() -> None:
    assert all("train/loss" in line for line in logged(make_run(total_steps=14, val=0)))


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_what_json_has_no_number_for_is_a_string(value: float, text: str) -> None:
    path = Path("metrics.jsonl")
    run, log = make_run(), MetricsLog(path)
    log.start(run)
    run.state.step = 1
    log.step(run, torch.tensor(value))
    log.evaluated(run, {"val/loss": value, "val/accuracy": 0.5})
    log.write({"step": 1, "test/loss": value})
    log.close()
    step, evaluation, test = lines(path)
    assert step["train/loss"] == text
    assert evaluation["val/loss"] == text
    assert evaluation["val/accuracy"] == 0.5
    assert test == {"step": 1, "test/loss": text}


def test_a_learning_rate_that_has_grown_beyond_all_bounds_is_a_string() -> None:
    """As an exponential schedule's may, without the guard of the loss."""
    path = Path("metrics.jsonl")
    run, log = make_run(), MetricsLog(path)
    log.start(run)
    run.state.step, run.state.lr = 1, math.inf
    log.step(run, torch.tensor(0.5))
    log.close()
    assert lines(path) == [{"step": 1, "epoch": 1, "train/loss": 0.5, "lr": "inf"}]


def test_what_was_there_before_the_run_stays() -> None:
    path = Path("metrics.jsonl")
    path.write_text('{"step": 0}\n')
    assert logged(make_run(total_steps=2))[0] == {"step": 0}


def test_losses_up_to_a_failure_are_written() -> None:
    class Failing(Hook):
        def step(self, run: Run, loss: Tensor) -> None:
            if run.state.step == 5:
                raise OSError("no more")

    log = MetricsLog(Path("metrics.jsonl"))
    run = make_run(total_steps=20, hooks=[log, Failing()])
    with pytest.raises(OSError, match="no more"):
        fit(run)
    log.close()
    assert [line["step"] for line in lines(log.path)] == [1, 2, 3, 4, 5]


def test_closing_early_and_twice_is_no_error() -> None:
    log = MetricsLog(Path("metrics.jsonl"))
    log.close()
    assert not log.path.exists()
    run = make_run()
    log.start(run)
    log.close()
    log.close()


def test_an_evaluation_is_on_disk_at_once() -> None:
    """Who watches the file need not wait for the end."""
    log = MetricsLog(Path("metrics.jsonl"))
    seen: list[int] = []

    class Reader(Hook):
        def evaluated(self, run: Run, values: Any) -> None:
            seen.append(len(lines(log.path)))

    fit(make_run(total_steps=14, hooks=[log, Reader()]))
    log.close()
    assert seen == [8, 16]
