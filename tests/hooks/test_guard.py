"""A loss that is not finite stops the run before it reaches the parameters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.test_loop import Recorder, all_equal, make_run, parameters
from trainctl.errors import NotFiniteError
from trainctl.hooks._base import Hook
from trainctl.hooks.clip import ClipNorm
from trainctl.hooks.guard import LossGuard
from trainctl.loop import Run, fit


class Breaking(nn.CrossEntropyLoss):
    """Gives ``value`` instead of the loss at one training step."""

    def __init__(self, at: int, value: float) -> None:
        super().__init__()
        self.at, self.value, self.calls = at, value, 0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().forward(outputs, targets)
        if not torch.is_grad_enabled():
            return loss
        self.calls += 1
        return loss * self.value if self.calls == self.at else loss


class Keeping(Hook):
    """Keeps the parameters as they are after each step."""

    def start(self, run: Run) -> None:
        self.last = parameters(run.model)

    def step(self, run: Run, loss: Tensor) -> None:
        self.last = parameters(run.model)


def broken(at: int = 5, value: float = math.nan, hooks: tuple[Hook, ...] = ()) -> tuple[Run, Keeping]:
    keeping = Keeping()
    run = make_run(total_steps=20, lr=0.25, hooks=[LossGuard(), *hooks, keeping])
    run.criterion = Breaking(at, value)
    return run, keeping


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 5, 9])
def test_it_stops_before_the_parameters_change(at: int, value: float) -> None:
    run, keeping = broken(at, value)
    momentum = [each["momentum_buffer"].clone() for each in run.optimizer.state.values()]
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    assert caught.value.exit_code == 6
    assert run.state.step == at - 1
    assert all_equal(parameters(run.model), keeping.last)
    assert all(bool(torch.isfinite(each).all()) for each in parameters(run.model))
    assert not momentum


def test_it_names_value_step_and_learning_rate_and_a_smaller_one() -> None:
    run, _ = broken(5, math.inf)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    (problem,) = caught.value.problems
    assert problem.message == "the loss is inf at step 5 with learning rate 0.25"
    assert "lr=0.025" in problem.remedy
    assert "train.clip_norm" in problem.remedy


def test_it_names_the_learning_rate_that_the_scheduler_has_set() -> None:
    run, _ = broken(3)
    run.scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1 / (step + 1))
    with pytest.raises(NotFiniteError, match=r"at step 3 with learning rate 0\.0833"):
        fit(run)


def test_other_hooks_see_no_step_of_it() -> None:
    recorder = Recorder()
    run, _ = broken(4, hooks=(recorder, ClipNorm(1.0)))
    with pytest.raises(NotFiniteError):
        fit(run)
    assert recorder.events == ["start", "step 1", "step 2", "step 3"]


def test_a_validation_loss_that_is_not_finite_stops_nothing() -> None:
    class Odd(nn.CrossEntropyLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().forward(outputs, targets)
            return loss if torch.is_grad_enabled() else loss * math.nan

    recorder = Recorder()
    run = make_run(total_steps=8, hooks=[LossGuard(), recorder])
    run.criterion = Odd()
    fit(run)
    assert run.state.step == 8
    assert math.isnan(recorder.values[0]["val/loss"])


def test_a_finite_run_is_the_same_with_and_without() -> None:
    guarded, plain = make_run(total_steps=10, hooks=[LossGuard()]), make_run(total_steps=10)
    fit(guarded)
    fit(plain)
    assert all_equal(parameters(guarded.model), parameters(plain.model))


def test_without_it_the_loss_goes_on() -> None:
    """What the others are compared with: nothing else stops the run."""
    run, _ = broken(5)
    run.hooks = run.hooks[1:]
    fit(run)
    assert run.state.step == 20


@pytest.mark.gpu
@pytest.mark.parametrize("at", [3, 49, 50, 51, 99])
def test_on_a_gpu_the_first_bad_step_is_named(at: int) -> None:
    from trainctl.data import Standardize
    from trainctl.loaders.resident import ResidentLoader

    device = torch.device("cuda")
    run, _ = broken(at)
    run.model = run.model.to(device)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.25)
    loader = run.train
    assert isinstance(loader, ResidentLoader)
    run.train = ResidentLoader(loader.split, Standardize(), 8, device, 0)
    run.val, run.total_steps = None, 200
    with pytest.raises(NotFiniteError, match=f"at step {at} "):
        fit(run)
    assert run.state.step < at + 50
