"""One batch again and again: learned, or not, and said so."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.runs import killed_after, metrics, record, same_end
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.data.order import epoch_order
from trainctl.registry.protocols import Cursor
from trainctl.training.build import build
from trainctl.training.hooks.overfit import Overfit
from trainctl.training.run import Control
from trainctl.training.state import State

QUICK = ("threads=1", "hydra.run.dir=run")


class OfLosses:
    """What the hook looks at of a run."""

    def __init__(self) -> None:
        self.state, self.control = State(), Control()


def fed(losses: list[float], batches: int = 1) -> tuple[Overfit, OfLosses]:
    hook, run = Overfit(batches), OfLosses()
    for loss in losses:
        run.state.step += 1
        hook.step(run, torch.tensor(loss))  # type: ignore[arg-type]
        if run.control.reason:
            break
    return hook, run


@pytest.mark.parametrize(
    ("losses", "batches", "learned_at"),
    [
        ([2.0, 1.0, 0.021, 0.019, 0.5], 1, 4),
        ([2.0, 1.0, 0.5], 1, None),
        ([2.0, math.nan, 1.0], 1, None),
        # A loss that rises again was not learned; each of several batches counts.
        ([2.0, 4.0, 0.01, 1.0, 0.02, 0.029, 0.01], 2, 6),
        ([2.0, 4.0, 0.01, 1.0, 0.02, 1.0], 2, None),
        ([0.0001, 0.0001], 1, None),
    ],
)
def test_every_batch_must_fall_to_a_hundredth(
    losses: list[float], batches: int, learned_at: int | None
) -> None:
    hook, run = fed(losses, batches)
    if learned_at is None:
        assert run.control.reason is None
        assert f"not learned in {len(losses)} steps" in str(hook.failure(run))  # type: ignore[arg-type]
    else:
        assert run.state.step == learned_at
        assert f"learned in {learned_at} steps" in str(run.control.reason)
        assert hook.failure(run) is None  # type: ignore[arg-type]


def test_a_loss_below_zero_shows_nothing() -> None:
    for losses in ([-0.5, -0.6], [2.0, 1.0, -1.0]):
        hook, run = fed(losses)
        assert run.control.reason is None
        assert "can be below 0" in str(hook.failure(run))  # type: ignore[arg-type]


def test_the_first_losses_survive_a_resume() -> None:
    hook, _ = fed([2.0, 1.0])
    again = Overfit(1)
    again.load_state_dict(json.loads(json.dumps(hook.state_dict())))
    assert (again.first, list(again.recent)) == ([2.0], [1.0])


def built(*words: str) -> Any:
    return build(Composer().compose([to_hydra(word) for word in ("threads=1", *words)]).config)


def test_it_is_the_first_batch_of_the_run_in_one_order_and_nothing_else() -> None:
    plain = built("seed=4")
    whole = plain.data.train.inputs
    run = built("seed=4", "debug=overfit", "model.dropout=0.4", "scheduler=cosine").run
    first = whole[epoch_order(len(whole), 4, 0)[:64]]
    for epoch in range(3):
        ((inputs, *_),) = run.train_loader.batches(Cursor(epoch))
        assert torch.equal(inputs, plain.data.transform(first))
    assert (run.val_loader, run.scheduler, run.total_steps) == (None, None, 1000)
    assert [each.p for each in run.model.modules() if isinstance(each, nn.Dropout)] == [0.0, 0.0]


def test_augmentation_is_off() -> None:
    words = ("dataset.augment=[{RandomCrop: {size: 8, padding: 3}}]",)
    ((inputs, *_),) = built("debug=overfit", *words).run.train_loader.batches(Cursor(0))
    ((plain, *_),) = built("debug=overfit").run.train_loader.batches(Cursor(0))
    assert torch.equal(inputs, plain)


def test_several_batches_of_accumulated_windows() -> None:
    run = built("train.overfit_batches=3", "train.accumulate=2", "batch_size=16").run
    assert (len(run.train_loader), run.train_loader.samples) == (3, 96)
    assert len(built("train.overfit_batches=1000").run.train_loader) == len(built().run.train_loader)


# ------------------------------------------------------------------ from the command line


def test_a_model_that_can_learn_says_so(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("debug=overfit", *QUICK)
    assert outcome.code == 0, outcome.err
    assert "one batch (64 samples) again and again" in outcome.out
    assert "stopped early: the batch is learned in" in outcome.out
    values = record(tmp_path / "run")
    assert (values["status"], values["test"], values["best"]) == ("done", None, None)
    assert values["last"]["step"] < 300
    losses = [line["train/loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] <= 0.01 * losses[0] < losses[-2]


def test_one_that_cannot_ends_with_1_and_the_reason(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("debug=overfit", "lr=1e-7", "train.max_steps=20", *QUICK)
    assert outcome.code == 1
    assert "the batch is not learned in 20 steps: loss 2.3" in outcome.err
    assert "trainctl tune lr" in outcome.err
    values = record(tmp_path / "run")
    assert (values["status"], values["exit_code"]) == ("failed", 1)
    assert values["reason"].startswith("the batch is not learned")
    assert "Traceback" not in (tmp_path / "run" / "train.log").read_text()
    outcome = trainctl("resume", "run", "lr=1e-2", "train.max_steps=300")
    assert outcome.code == 0, outcome.err
    assert record(tmp_path / "run")["status"] == "done"


def test_it_resumes_exactly_and_verifies(trainctl, tmp_path: Path) -> None:
    words = ("train.overfit_batches=2", "epochs=6", "checkpoint.every_steps=1", "checkpoint.keep_last=99")
    assert trainctl(*words, *QUICK, "display.mode=none").code == 1
    cut = killed_after(tmp_path / "run", 5)
    assert trainctl("resume", "cut").code == 1
    assert same_end(cut, tmp_path / "run", 12)
    assert trainctl("verify", "run").code == 0


@pytest.mark.parametrize("words", [(), ("experiment=digits_cosine",), ("experiment=thermometer",)])
def test_one_step_is_a_whole_life(trainctl, tmp_path: Path, words: tuple[str, ...]) -> None:
    outcome = trainctl("debug=one_step", *words, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    values = record(tmp_path / "run")
    assert values["last"]["step"] == 1
    assert values["environment"]["threads"] == 1
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]
    if not words:
        assert {"val/accuracy", "val/loss"} <= set(values["best"])
        assert set(values["test"]) == {"step", "epoch", "test/accuracy", "test/loss"}
