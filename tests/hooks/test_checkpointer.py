"""When checkpoints are made, what is in them and which stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.test_loop import make_run
from trainctl import checkpoint
from trainctl.errors import NotFiniteError
from trainctl.hooks._base import Hook
from trainctl.hooks.best import Best
from trainctl.hooks.checkpointer import Checkpointer
from trainctl.loop import Run, fit

FOLDER = Path("checkpoints")
DESCRIBED = {"input_shape": [6], "output_size": 3}


class Scripted(Hook):
    """Calls the evaluations of a run the best ones at these epochs."""

    def __init__(self, epochs: Sequence[int]) -> None:
        self.epochs = epochs

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        run.state.last = {**run.state.where, **values}
        if run.state.position == 0 and run.state.epoch in self.epochs:
            run.state.best = dict(run.state.last)


class Listing(Hook):
    """Notes the steps that are on disk after each evaluation."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self.steps.append(on_disk())


def on_disk() -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoint.list_checkpoints(FOLDER)]


def saved(best: Sequence[int], total_steps: int = 35, **arguments: Any) -> tuple[list[list[int]], list[int]]:
    """Steps on disk after each epoch of seven steps, and at the end."""
    listing = Listing()
    fit(
        make_run(
            total_steps=total_steps,
            hooks=[Scripted(best), Checkpointer(FOLDER, DESCRIBED, **arguments), listing],
        )
    )
    return listing.steps, on_disk()


def test_the_best_and_the_newest_stay() -> None:
    after, end = saved(best=[1, 3])
    assert after == [[7], [7, 14], [21], [21, 28], [21, 35]]
    assert end == [21, 35]


def test_more_of_the_newest_stay() -> None:
    after, _ = saved(best=[1], keep_last=3)
    assert after == [[7], [7, 14], [7, 14, 21], [7, 14, 21, 28], [7, 21, 28, 35]]


def test_only_every_so_many_epochs_and_each_best_are_saved() -> None:
    after, end = saved(best=[1, 3], total_steps=37, every_epochs=4, keep_last=9)
    assert after == [[7], [7], [7, 21], [7, 21, 28], [7, 21, 28], [7, 21, 28]]
    assert end == [7, 21, 28, 37]


def test_without_a_best_one_the_newest_stay() -> None:
    assert saved(best=[]) == ([[7], [14], [21], [28], [35]], [35])


def test_a_run_that_ends_within_an_epoch_is_saved() -> None:
    assert saved(best=[1], total_steps=10)[1] == [7, 10]


def test_a_checkpoint_holds_parameters_cursor_results_and_description() -> None:
    best = Best("val/accuracy", lower_is_better=False)
    run = make_run(total_steps=10, hooks=[best, Checkpointer(FOLDER, DESCRIBED)])
    fit(run)
    tensors, state = checkpoint.read(FOLDER / "step-00000010")
    assert all(torch.equal(value, tensors[name]) for name, value in run.model.state_dict().items())
    assert (state["step"], state["epoch"], state["position"]) == (10, 1, 24)
    assert state["best"] == run.state.best
    assert state["last"] == run.state.last
    assert state["stale"] == run.state.stale
    assert state["data"] == DESCRIBED


def test_the_best_checkpoint_holds_the_best_parameters() -> None:
    class Keeping(Hook):
        def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
            if run.state.epoch == 2:
                self.parameters = {name: value.clone() for name, value in run.model.state_dict().items()}

    keeping = Keeping()
    fit(make_run(total_steps=35, hooks=[Scripted([2]), Checkpointer(FOLDER, DESCRIBED), keeping]))
    tensors, _ = checkpoint.read(FOLDER / "step-00000014")
    assert all(torch.equal(value, tensors[name]) for name, value in keeping.parameters.items())


def test_saving_within_an_epoch_keeps_the_cursor() -> None:
    """What a run that is stopped does."""
    checkpointer = Checkpointer(FOLDER, DESCRIBED)

    class Stopping(Hook):
        def step(self, run: Run, loss: Tensor) -> None:
            if run.state.step == 9:
                raise KeyboardInterrupt

    run = make_run(total_steps=35, hooks=[Scripted([1]), checkpointer, Stopping()])
    with pytest.raises(KeyboardInterrupt):
        fit(run)
    path = checkpointer.save(run)
    assert path == FOLDER / "step-00000009"
    _, state = checkpoint.read(path)
    assert (state["step"], state["epoch"], state["position"]) == (9, 1, 16)
    assert on_disk() == [7, 9]


def test_a_step_is_saved_once() -> None:
    run, checkpointer = make_run(), Checkpointer(FOLDER, DESCRIBED)
    run.state.step = 3
    path = checkpointer.save(run)
    written = (path / "manifest.json").stat().st_mtime_ns
    checkpointer.evaluated(run, {})
    checkpointer.end(run)
    assert checkpointer.save(run) == path
    assert (path / "manifest.json").stat().st_mtime_ns == written


def test_parameters_that_are_not_finite_cost_no_older_checkpoint() -> None:
    run, checkpointer = make_run(), Checkpointer(FOLDER, DESCRIBED)
    run.state.step = 3
    checkpointer.save(run)
    run.state.step = 4
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="not finite at step 4"):
        checkpointer.save(run)
    assert on_disk() == [3]
