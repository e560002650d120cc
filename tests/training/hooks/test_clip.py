"""Clipping bounds what the optimizer sees."""

from __future__ import annotations

import pytest
import torch

from tests.training.test_loop import all_equal, make_run, parameters
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.loop import fit


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping_is_the_same_line_written_by_hand(max_norm: float) -> None:
    run, twin = make_run(total_steps=7, hooks=[ClipNorm(max_norm)]), make_run()
    fit(run)
    for inputs, targets, *_ in twin.train_loader.batches():
        loss = twin.criterion(twin.model(inputs), targets)
        twin.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.model.parameters(), max_norm)
        twin.optimizer.step()
    assert all_equal(parameters(run.model), parameters(twin.model))


def test_parameters_without_a_gradient_are_no_error() -> None:
    run = make_run(total_steps=2, hooks=[ClipNorm(0.1)])
    unused = torch.nn.Parameter(torch.ones(3))
    run.optimizer.add_param_group({"params": [unused]})
    fit(run)
    assert unused.tolist() == [1, 1, 1]
