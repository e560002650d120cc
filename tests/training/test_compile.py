"""Compiled models: the same losses, plain names, and a fall-back that says so."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import trainctl as package
from tests.helpers.program import modules_after
from tests.helpers.runs import metrics, record
from trainctl.checkpoint.format import read_checkpoint
from trainctl.components.optimizers._lean import lean, stock_classes
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.training.build import build
from trainctl.training.compile import Compiled
from trainctl.training.failures import line_of

WORDS = ("epochs=2", "batch_size=160", "threads=1", "device=cpu", "display.mode=plain")


def built(*words: str) -> Any:
    return build(Composer().compose([to_hydra(word) for word in words]).config)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("model=scratch_mlp", "compile=true"), "model=scratch_mlp is plain Python"),
        (
            ("loop=parameters", "optim=sgd", "compile=default"),
            "compile=default: compile requires loop=optimizer; loop=parameters",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(trainctl, words: tuple[str, ...], expected: str) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert expected in outcome.err
    assert "Traceback" not in outcome.err


def test_the_optimizer_is_torchs_own_class_where_the_compiler_comes_anyway() -> None:
    assert lean(torch.optim.SGD) is not torch.optim.SGD
    with stock_classes():
        assert lean(torch.optim.SGD) is torch.optim.SGD
        with stock_classes(False):
            assert lean(torch.optim.SGD) is not torch.optim.SGD
    assert lean(torch.optim.SGD) is not torch.optim.SGD


def test_the_reason_is_the_line_that_says_something() -> None:
    assert line_of(RuntimeError("backend='x' raised:\nNoCompiler: none found\n\nmore")) == (
        "NoCompiler: none found"
    )
    assert line_of(RuntimeError("")) == "RuntimeError"
    assert len(line_of(RuntimeError("x" * 1000))) == 200


# ------------------------------------------------------------------ the fall-back


class BrokenError(Exception):
    """What a compiler raises that is not there."""


def broken(self: nn.Module, **asked: Any) -> None:
    """In the place of ``nn.Module.compile``, which fails at the first call, too."""

    def call(*inputs: Any) -> Any:
        torch.rand(3), random.random(), numpy.random.rand()
        raise BrokenError(f"backend={asked['backend']!r} raised:\nno compiler of mode {asked['mode']}")

    self._compiled_call_impl = call


def test_a_compiler_that_fails_is_announced_and_the_run_is_the_plain_one(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, "model.dropout=0.3", "model.normalization=batch")
    assert trainctl(*words, "hydra.run.dir=plain").code == 0
    monkeypatch.setattr(nn.Module, "compile", broken)
    outcome = trainctl(*words, "compile=max-autotune", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    said = "compile=max-autotune failed, the model runs as it is: no compiler of mode max-autotune"
    assert "compiling the model (mode max-autotune): this takes a while" in outcome.out
    assert said in outcome.out
    assert said in (tmp_path / "run" / "train.log").read_text()
    how = record(tmp_path / "run")["environment"]["compile"]
    assert how == "not compiled: no compiler of mode max-autotune"
    assert metrics(tmp_path / "run") == metrics(tmp_path / "plain")
    one, other = (
        read_checkpoint(next((tmp_path / name / "checkpoints").glob("*-00000016"))).model
        for name in ("run", "plain")
    )
    assert all(torch.equal(one[name], other[name]) for name in {**one, **other})


def test_the_trial_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that works, as far as the trial can tell: the model itself."""
    calls: list[tuple[int, bool]] = []

    def compile_it(self: nn.Module, **asked: Any) -> None:
        def call(inputs: torch.Tensor) -> Any:
            calls.append((len(inputs), self.training))
            return self._call_impl(inputs)

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", compile_it)
    run = built(*WORDS, "model.dropout=0.3", "model.normalization=batch", "compile=true").run
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    (hook,) = (each for each in run.hooks if isinstance(each, Compiled))
    assert run.hooks[0] is hook
    hook.start(run)
    # 1,275 samples in batches of 160 end with one of 155.
    assert calls == [(160, True), (160, False), (155, True), (155, False)]
    assert list(run.model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert run.model.training


@pytest.mark.slow
def test_off_it_costs_nothing(tmp_path: Path) -> None:
    words = ("train.max_steps=1", "display.mode=none", "hydra.run.dir=off", "threads=1")
    assert "trainctl.training.compile" not in modules_after(*words, cwd=tmp_path)


# ------------------------------------------------------------------ the real compiler


@pytest.mark.slow
def test_compiled_losses_are_the_plain_ones_and_every_verb_takes_the_run(tmp_path: Path) -> None:
    """In processes of its own: the compiler stays in the one that imports it."""

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "trainctl", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    every = ("checkpoint.every_steps=4", "checkpoint.keep_last=99")
    run(*WORDS, *every, "hydra.run.dir=plain")
    out = run(*WORDS, *every, "compile=true", "hydra.run.dir=run")
    assert "compiling the model (mode default)" in out
    assert "failed" not in out
    assert record(tmp_path / "run")["environment"]["compile"] == "default"
    losses = [
        [line["train/loss"] for line in metrics(tmp_path / name) if "lr" in line] for name in ("run", "plain")
    ]
    assert len(losses[0]) == 16
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    model = package.load(tmp_path / "run")
    assert not any("_orig_mod" in name for name in model.state_dict())
    assert "identical: 16 of 16 steps" in run("verify", "run")
    run("resume", "run", "epochs=3")
    assert record(tmp_path / "run")["last"]["step"] == 24
