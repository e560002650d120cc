"""Where the time goes: found where it is spent, in few steps or many, and the run is the same."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from tests.helpers.program import modules_after
from tests.helpers.runs import killed_after, metrics, record, same_end
from tests.helpers.small_run import make_run
from trainctl.training.hooks.profile import PARTS, Profile, Profiler, StepEnd
from trainctl.training.loop import fit
from trainctl.training.run import Hook, Run

PAUSE = 0.004


def profiled(folder: Path, run: Run | None = None, **arguments: Any) -> tuple[Run, Profile | None]:
    run = run or make_run(**{"total_steps": 60, "samples": 400, **arguments})
    profiler = Profiler(folder / "profile")
    run.hooks = [StepEnd(profiler), *run.hooks, profiler]
    plain = run.step
    fit(run)
    assert run.step is plain
    return run, profiler.profile


class Slow(nn.Module):
    """Layers, the forward pass or the backward pass of which takes its time."""

    def __init__(self, inner: nn.Module, where: str) -> None:
        super().__init__()
        self.inner, self.where = inner, where

    def forward(self, inputs: Tensor) -> Tensor:
        if self.where == "forward":
            time.sleep(PAUSE)
        outputs: Tensor = self.inner(inputs)
        if self.where == "backward" and outputs.requires_grad:
            outputs.register_hook(lambda gradient: time.sleep(PAUSE))
        return outputs


class Watching(Hook):
    def step(self, run: Run, loss: Tensor) -> None:
        time.sleep(PAUSE)


@pytest.mark.parametrize("where", PARTS)
def test_time_is_found_where_it_is_spent(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(total_steps=20, samples=400)
    if where in ("forward", "backward"):
        run.model = Slow(run.model, where)
    if where == "optimizer":
        run.optimizer.register_step_post_hook(lambda *_: time.sleep(PAUSE))
    if where == "hooks":
        run.hooks = [Watching()]
    if where == "data":
        make = type(run.train_loader).batches

        def slowly(self: Any, *rest: Any) -> Any:
            for batch in make(self, *rest):
                time.sleep(PAUSE)
                yield batch

        monkeypatch.setattr(type(run.train_loader), "batches", slowly)
        run.val_loader = None
    _, found = profiled(tmp_path, run)
    assert found is not None
    assert tuple(found.parts) == PARTS
    assert found.parts[where] > PAUSE * 1e6
    assert found.parts[where] > 0.5 * sum(found.parts.values())


def test_operators_and_the_trace(tmp_path: Path) -> None:
    _, found = profiled(tmp_path)
    assert found is not None
    assert (found.steps, found.traced, found.device) == (20, 20, "cpu")
    names = {each.name: each for each in found.operators}
    # Two linear layers: two products forward.
    assert names["aten::addmm"].calls == 2
    assert [each.microseconds for each in found.operators] == sorted(
        (each.microseconds for each in found.operators), reverse=True
    )
    trace = json.loads(found.trace.read_text())
    assert sum(event.get("name") == "aten::addmm" for event in trace["traceEvents"]) == 40


@pytest.mark.parametrize(("steps", "measured"), [(0, None), (1, None), (2, 1), (3, 1), (9, 3), (29, 12)])
def test_a_short_run_measures_fewer_steps(tmp_path: Path, steps: int, measured: int | None) -> None:
    _, found = profiled(tmp_path, total_steps=steps)
    assert (found and found.steps) == measured


@pytest.mark.quick(1)
@pytest.mark.parametrize("samples", [8, 20, 200])
def test_no_evaluation_is_among_the_steps(tmp_path: Path, samples: int) -> None:
    """Epochs of 1, 3 and 25 steps."""
    _, found = profiled(tmp_path, samples=samples, val=500)
    assert found is not None
    assert 1 <= found.traced <= -(-samples // 8)
    assert next(each.calls for each in found.operators if each.name == "aten::addmm") == 2


def test_a_run_that_is_broken_off_leaves_no_profiler_going(tmp_path: Path) -> None:
    class Breaking(Hook):
        def step(self, run: Run, loss: Tensor) -> None:
            if run.state.step == 30:
                raise KeyboardInterrupt

    run = make_run(total_steps=60, samples=400, hooks=[Breaking()])
    profiler = Profiler(tmp_path)
    run.hooks.append(profiler)
    with pytest.raises(KeyboardInterrupt):
        fit(run)
    profiler.close()
    profiler.close()
    assert profiled(tmp_path)[1] is not None


# ------------------------------------------------------------------ from the command line

WORDS = ("epochs=3", "batch_size=160", "threads=1", "hydra.run.dir=run")


def test_the_table_is_shown_logged_and_recorded(trainctl, tmp_path: Path) -> None:
    outcome = trainctl(*WORDS, "profile=true")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    assert "where a step goes: " in outcome.out
    assert "every call, for ui.perfetto.dev: run/profile/trace.json" in outcome.out
    assert "aten::addmm × 3" in outcome.out
    lines = outcome.out.splitlines()
    assert lines[0] == "run run"
    assert lines[-1] == "run: run"
    assert "where a step goes" in (tmp_path / "run" / "train.log").read_text()
    kept = record(tmp_path / "run")["profile"]
    assert list(kept["microseconds"]) == list(PARTS)
    assert (tmp_path / "run" / kept["trace"]["file"]).is_file()


def test_too_few_steps_are_said_to_be(trainctl) -> None:
    outcome = trainctl("debug=one_step", "profile=true", "hydra.run.dir=run")
    assert outcome.code == 0
    assert "profile: too few steps to measure any" in outcome.out


@pytest.mark.slow
def test_it_may_change_on_resume_and_changes_nothing(trainctl, tmp_path: Path) -> None:
    every = ("checkpoint.every_steps=1", "checkpoint.keep_last=99", "display.mode=none", "model.dropout=0.3")
    assert trainctl(*WORDS, *every).code == 0
    steps = len([line for line in metrics(tmp_path / "run") if "lr" in line])
    cut = killed_after(tmp_path / "run", 5)
    assert trainctl("resume", "cut", "profile=true").code == 0
    assert record(cut)["profile"]["steps"] > 0
    assert same_end(cut, tmp_path / "run", steps)
    assert trainctl("verify", "cut").code == 0


@pytest.mark.slow
def test_neither_it_nor_the_optimizer_imports_the_compiler(tmp_path: Path) -> None:
    assert not {"torch._dynamo", "sympy"} & modules_after(*WORDS, "profile=true", cwd=tmp_path)
