"""Clipping bounds what the optimizer sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_loop import all_equal, make_run, parameters
from trainctl.training.run import Hook
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.loop import fit
from trainctl.training.run import Run


class Gradients(Hook):
    """Notes the gradients that each optimizer step begins with."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def start(self, run: Run) -> None:
        def note(optimizer: Any, args: Any, kwargs: Any) -> None:
            group = optimizer.param_groups[0]["params"]
            self.seen.append([parameter.grad.clone() for parameter in group])

        run.optimizer.register_step_pre_hook(note)

    def norms(self) -> list[float]:
        return [torch.cat([each.flatten() for each in step]).double().norm().item() for step in self.seen]


@pytest.mark.parametrize("max_norm", [1e-3, 0.05])
def test_the_norm_that_the_optimizer_sees_is_bounded(max_norm: float) -> None:
    before, after = Gradients(), Gradients()
    fit(make_run(total_steps=12, hooks=[before, ClipNorm(max_norm), after]))
    assert min(before.norms()) > max_norm
    assert len(after.norms()) == 12
    assert max(after.norms()) <= max_norm * (1 + 1e-5)
    assert min(after.norms()) > max_norm * 0.99


def test_all_gradients_are_scaled_together() -> None:
    before, after = Gradients(), Gradients()
    fit(make_run(total_steps=3, hooks=[before, ClipNorm(0.01), after]))
    for raw, clipped in zip(before.seen, after.seen, strict=True):
        one, other = (torch.cat([each.flatten() for each in step]).double() for step in (raw, clipped))
        assert torch.nn.functional.cosine_similarity(one, other, dim=0).item() == pytest.approx(1.0, abs=1e-9)


def test_the_parameters_move_no_further_than_allowed() -> None:
    """Plain descent: the step's length is the learning rate times the norm."""
    run = make_run(total_steps=1, lr=1.0, hooks=[ClipNorm(0.01)])
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
    before = parameters(run.model)
    fit(run)
    moved = [new - old for new, old in zip(parameters(run.model), before, strict=True)]
    length = torch.cat([each.flatten() for each in moved]).norm().item()
    assert length == pytest.approx(0.01, rel=1e-3)


def test_small_gradients_are_left_alone_bit_for_bit() -> None:
    clipped, plain = make_run(total_steps=10, hooks=[ClipNorm(1e6)]), make_run(total_steps=10)
    fit(clipped)
    fit(plain)
    assert all_equal(parameters(clipped.model), parameters(plain.model))


def test_clipping_is_the_same_line_written_by_hand() -> None:
    run, twin = make_run(total_steps=7, hooks=[ClipNorm(0.1)]), make_run()
    fit(run)
    for inputs, targets in twin.train.batches():
        loss = twin.criterion(twin.model(inputs), targets)
        twin.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.model.parameters(), 0.1)
        twin.optimizer.step()
    assert all_equal(parameters(run.model), parameters(twin.model))


def test_parameters_without_a_gradient_are_no_error() -> None:
    run = make_run(total_steps=2, hooks=[ClipNorm(0.1)])
    unused = torch.nn.Parameter(torch.ones(3))
    run.optimizer.add_param_group({"params": [unused]})
    fit(run)
    assert unused.tolist() == [1, 1, 1]
