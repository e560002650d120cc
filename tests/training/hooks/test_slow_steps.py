"""Steps that take much longer than they did when threads were chosen are said, once."""

from __future__ import annotations

import time

from torch import Tensor

from tests.helpers.small_run import make_run
from trainctl.training.hooks.slow_steps import SlowSteps
from trainctl.training.loop import fit
from trainctl.training.run import Hook, Run


class Busy(Hook):
    """Takes half a millisecond a step."""

    def step(self, run: Run, loss: Tensor) -> None:
        time.sleep(5e-4)


def announced(seconds: float) -> list[tuple[str, str]]:
    run = make_run(total_steps=70)
    said: list[tuple[str, str]] = []
    run.announce = lambda topic, text, word: said.append((topic, text))
    run.attach([Busy(), SlowSteps(2, seconds)])
    fit(run)
    return said


def test_slow_steps_are_announced_once() -> None:
    ((topic, text),) = announced(1e-5)
    assert topic == "slow_steps"
    assert "times as long as when threads=2 was measured" in text


def test_steps_that_take_what_they_took_are_not() -> None:
    assert announced(1e-2) == []
