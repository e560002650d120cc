"""What a run takes its steps with is what ``build`` made: nothing replaces it while it trains."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from torch import Tensor

from tests.config.test_experiments import EXPERIMENTS
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.config.settings import Component
from trainctl.errors import MissingDataError
from trainctl.registry import DATASETS
from trainctl.training.build import build
from trainctl.training.built import Built
from trainctl.training.hooks.profile import attach
from trainctl.training.prepare_data import build_data
from trainctl.training.run import Hook, Run

SHORT = ("train.max_steps=4", "train.epochs=null", "threads=1", "device=cpu")
OTHERS = (
    "guard=full",
    "guard=none",
    "train.accumulate=2",
    "train.clip_norm=1",
    "train.ema=0.9",
    "train.precision=bf16",
    "scheduler=one_cycle",
    "loop=layers optim=sgd",
    "loop=lightning",
    "profile=true",
)


def built(*words: str) -> Built:
    config = Composer().compose([to_hydra(word) for word in (*words, *SHORT)]).config
    try:
        return build(config)
    except MissingDataError as missing:
        common = {**config.dataset.common, "val": 0.1}
        made = Component(DATASETS.group, "synthetic", dict(missing.stand_in), common)
        return build(config, build_data(made))


def parts(run: Run) -> dict[str, Any]:
    """What the steps are taken with: the objects, and what an instance has in place of its class's."""
    objects = {"model": run.model, "criterion": run.criterion, "optimizer": run.optimizer}
    own = {
        f"{name}.{method}": vars(each).get(method)
        for name, each in objects.items()
        for method in ("step", "zero_grad", "forward", "__call__")
    }
    return {"step": run.step, **objects, **own}


class Look(Hook):
    """Looks at the run before and after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def batch(self, run: Run, batch: Any) -> None:
        self.seen.append(parts(run))

    def step(self, run: Run, loss: Tensor) -> None:
        self.seen.append(parts(run))


@pytest.mark.quick(4)
@pytest.mark.parametrize("words", [*(f"experiment={name}" for name in EXPERIMENTS), *OTHERS])
def test_a_run_trains_with_what_was_built(words: str, tmp_path: Any) -> None:
    if "lightning" in words:
        pytest.importorskip("lightning")
    with contextlib.closing(built(*words.split())) as each:
        run, look = each.run, Look()
        run.attach([look])
        if words == "profile=true":
            attach(run, tmp_path)
        before = parts(run)
        each.fit(run)
    assert len(look.seen) == 8
    for seen in look.seen:
        changed = [name for name, value in seen.items() if value is not before[name]]
        assert not changed


def test_a_step_that_is_replaced_is_noticed() -> None:
    """The look sees it where a hook does what none may."""

    class Replacing(Hook):
        def start(self, run: Run) -> None:
            plain = run.step
            run.step = lambda *arguments: plain(*arguments)

    with contextlib.closing(built()) as each:
        look = Look()
        each.run.attach([Replacing(), look])
        before = parts(each.run)
        each.fit(each.run)
    assert look.seen[0]["step"] is not before["step"]


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("", "plain, loss guard"),
        ("guard=full", "plain, loss and gradients guard"),
        ("guard=none", "plain"),
        ("train.accumulate=2", "accumulated over 2 batches, loss guard"),
        ("loop=layers optim=sgd", "loop=layers, loss guard"),
    ],
)
def test_the_step_and_what_is_attached_are_named(trainctl: Any, words: str, name: str, tmp_path: Any) -> None:
    outcome = trainctl(*words.split(), *SHORT, "display.mode=plain", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert f"step      {name}\n" in outcome.out
    step = json.loads((tmp_path / "run" / "run.json").read_text())["step"]
    assert step["name"] == name
    assert step["attached"][-4:] == ["metrics_log", "checkpoints", "console", "signals"]
    assert ("guard" in step["attached"]) == ("guard" in name)
