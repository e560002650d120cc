"""Averaged weights: the average by hand, what is evaluated and saved, and the way back."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trainctl as package
from tests.helpers.runs import at, everything, killed_after, metrics, record, same_end
from tests.helpers.small_run import all_equal, make_run, parameters
from trainctl.checkpoint import bad_step
from trainctl.checkpoint.format import CheckpointData, read_checkpoint, save_checkpoint
from trainctl.config.composer import Composer
from trainctl.training.build import build
from trainctl.training.hooks.ema import Ema
from trainctl.training.loop import evaluate_split, fit
from trainctl.training.run import Hook, Run

WORDS = ("epochs=3", "batch_size=320", "threads=1", "model.hidden=[16]", "model.normalization=batch")
EVERY = ("checkpoint.every_steps=1", "checkpoint.keep_last=100", "display.mode=none", "hydra.run.dir=run")


class Kept(Hook):
    """The parameters after each step."""

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []

    def step(self, run: Run, loss: Tensor) -> None:
        self.steps.append(parameters(run.model))


def averaged(decay: float, steps: int = 30, **arguments: Any) -> tuple[Run, Kept]:
    run, kept = make_run(total_steps=steps, **arguments), Kept()
    run.averaged = copy.deepcopy(run.model)
    run.hooks = [Ema(run.model, run.averaged, decay), kept]
    fit(run)
    return run, kept


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_it_is_the_average_of_all_steps(decay: float) -> None:
    start = parameters(make_run().model)
    run, kept = averaged(decay)
    expected = [value.double() for value in start]
    for number, weights in enumerate(kept.steps, 1):
        now = min(decay, (1 + number) / (10 + number))
        expected = [now * old + (1 - now) * new for old, new in zip(expected, weights, strict=True)]
    for average, value in zip(parameters(run.averaged), expected, strict=True):
        torch.testing.assert_close(average.double(), value, rtol=0, atol=1e-5)
    assert not all_equal(parameters(run.averaged), parameters(run.model))


def test_the_average_is_what_is_evaluated() -> None:
    run, _ = averaged(0.99)
    by_average = evaluate_split(run, "val", run.val_loader)
    run.averaged = None
    assert evaluate_split(run, "val", run.val_loader) != by_average


def test_buffers_are_those_of_the_newest_step_and_frozen_weights_stay() -> None:
    config = (
        Composer()
        .compose(
            [
                "threads=1",
                "train.ema=0.9",
                "++model.normalization=batch",
                "++model.freeze=[*.bias]",
                "train.max_steps=5",
            ]
        )
        .config
    )
    run = build(config).run
    frozen = {name: item.clone() for name, item in run.model.named_parameters() if not item.requires_grad}
    assert frozen
    fit(run)
    raw, average = run.model.state_dict(), run.result.state_dict()
    buffers = {name for name, _ in run.model.named_buffers()}
    assert buffers
    assert all(torch.equal(raw[name], average[name]) for name in buffers | set(frozen))
    assert int(average[next(name for name in buffers if "num_batches" in name)]) == 5
    assert not all(torch.equal(raw[name], average[name]) for name in raw)


def test_without_it_there_is_no_hook_and_no_copy() -> None:
    run = build(Composer().compose(["threads=1"]).config).run
    assert run.averaged is None
    assert run.result is run.model
    assert not any(isinstance(hook, Ema) for hook in run.hooks)


# ------------------------------------------------------------------ a whole run


def test_a_checkpoint_holds_the_average_as_the_model_and_the_raw_weights_beside_it(
    trainctl, tmp_path: Path
) -> None:
    outcome = trainctl(*WORDS, *EVERY[:2], EVERY[3], "train.ema=0.9")
    assert outcome.code == 0, outcome.err
    assert "average   of the weights, decay 0.9: it is evaluated and saved" in outcome.out
    assert trainctl(*WORDS, *EVERY[:3], "hydra.run.dir=raw").code == 0
    own, plain = read_checkpoint(at(tmp_path / "run", 12)), read_checkpoint(at(tmp_path / "raw", 12))
    for name, parameter in plain.model.items():
        if name.endswith(("weight", "bias")):
            assert torch.equal(own.training[f"ema.raw.{name}"], parameter)
            assert not torch.equal(own.model[name], parameter)
    losses = [
        [line["train/loss"] for line in metrics(tmp_path / run) if "lr" in line] for run in ("run", "raw")
    ]
    assert losses[0] == losses[1]
    model = package.load("run", which="last")
    assert all(torch.equal(tensor, own.model[name]) for name, tensor in model.state_dict().items())


@pytest.mark.quick(1)
@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_a_run_interrupted_after_any_step_ends_as_one_that_was_not(
    trainctl, tmp_path: Path, step: int
) -> None:
    assert trainctl(*WORDS, *EVERY, "train.ema=0.9", "model.dropout=0.3").code == 0
    cut = killed_after(tmp_path / "run", step)
    outcome = trainctl("resume", "cut")
    assert outcome.code == 0, outcome.err
    assert same_end(cut, tmp_path / "run")
    assert record(cut)["test"] == record(tmp_path / "run")["test"]


def test_verify_takes_its_steps_again(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, *EVERY[2:], "train.ema=0.99", "checkpoint.every_steps=5").code == 0
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out + outcome.err
    content = read_checkpoint(at(tmp_path / "run", 12))
    key = next(name for name in content.training if name.startswith("ema.raw"))
    content.training[key].view(-1)[0] += 1  # type: ignore[index]
    changed = CheckpointData(content.model, content.training, content.state)
    shutil.rmtree(at(tmp_path / "run", 12))
    save_checkpoint(tmp_path / "run" / "checkpoints", changed)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "hook ema" in outcome.out


def test_it_may_begin_in_the_middle_but_ends_only_when_allowed(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, *EVERY).code == 0
    cut = killed_after(tmp_path / "run", 6)
    outcome = trainctl("resume", "cut", "train.ema=0.5")
    assert outcome.code == 0, outcome.err
    content = read_checkpoint(at(cut, 12))
    assert content.state["parts"]["ema"]["items"][0] == ["updates", 6]
    before = everything(cut)
    outcome = trainctl("resume", "cut", "train.ema=null", "epochs=4")
    assert outcome.code == 2
    assert "training would continue from the averaged weights" in outcome.err
    assert everything(cut) == before
    assert trainctl("resume", "cut", "train.ema=null", "epochs=4", "--allow-change").code == 0


def test_a_bad_step_is_kept_with_the_weights_that_took_it(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[str, Tensor]] = []
    forward = nn.CrossEntropyLoss.forward

    def spoilt(self: Any, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = forward(self, outputs, targets)
        return loss * float("nan") if outputs.requires_grad and len(steps) == 3 else loss

    step = Ema.step

    def kept(self: Ema, run: Run, loss: Tensor) -> None:
        step(self, run, loss)
        steps.append({name: item.detach().clone() for name, item in run.model.named_parameters()})

    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", spoilt)
    monkeypatch.setattr(Ema, "step", kept)
    assert trainctl(*WORDS, *EVERY[2:], "train.ema=0.9").code == 6
    found = bad_step.newest(tmp_path / "run")
    model = bad_step.read(found).content.model
    assert all(torch.equal(model[name], value) for name, value in steps[-1].items())


def test_plain_python_models_are_averaged_too(trainctl, tmp_path: Path) -> None:
    words = ("model=scratch_mlp", "optim=scratch_sgd", "epochs=1", "threads=1", "train.ema=0.9")
    assert trainctl(*words, "hydra.run.dir=run").code == 0
    content = read_checkpoint(next((tmp_path / "run" / "checkpoints").iterdir()))
    raw = [name for name in content.training if name.startswith("ema.raw")]
    assert len(raw) == len(content.model)
