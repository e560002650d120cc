"""A bad step is run again from its capsule alone, and the place where it goes wrong is named."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Outcome
from tests.program import run as run_program
from trainctl.analysis.replay import Replay, replay
from trainctl.checkpoint import bad_step as capsule
from trainctl.checkpoint.format import FILES, CheckpointData, read_checkpoint, save_checkpoint
from trainctl.config.settings import Config
from trainctl.ui.replay import show

Program = Callable[..., Outcome]

PARTS = '''
import torch
from torch import nn
from trainctl.lessons import scratch
from trainctl.data import Data, Split
from trainctl.registry import DATASETS, LOSSES, MODELS, OPTIMIZERS


@DATASETS.register("planted")
def planted(what: str = "", row: int = 5) -> Data:
    """Learnable data; ``what`` is planted in one row of the training samples."""
    generator = torch.Generator().manual_seed(0)
    def split(count):
        inputs = torch.randn(count, 6, generator=generator)
        return Split(inputs, inputs[:, :2] * 2)
    train, val = split(128), split(32)
    if what == "input":
        train.inputs[row, 3] = float("inf")
    if what == "target":
        train.targets[row, 1] = float("nan")
    if what == "large":
        train.inputs[row] = 3e38
    if what == "large target":
        train.targets[row] = 3e38
    return Data(name="planted", task="regression", train=train, val=val, test=None, input_shape=(6,),
                output_size=2, classes=(), transform=torch.nn.Identity())


class Function(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs, factor):
        context.factor = factor
        return inputs.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.factor, None


class Large(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs):
        return inputs.clone()

    @staticmethod
    def backward(context, gradient):
        return torch.full_like(gradient, 8e37 if len(gradient) == 4 else 3e38)


class Masking(nn.Module):
    def forward(self, inputs):
        return torch.full_like(inputs, -torch.inf)


class Failing(nn.Module):
    def forward(self, inputs):
        raise ValueError


class Turning(nn.Module):
    """Does ``what`` from its training call ``at`` on; a buffer counts, so that a capsule knows."""
    def __init__(self, what, at):
        super().__init__()
        self.what, self.at = what, at
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.tensor(-torch.inf), persistent=False)
        self.masking, self.failing = Masking(), Failing()

    def forward(self, inputs):
        if not self.training:
            return inputs
        self.calls += 1
        if self.calls < self.at:
            return inputs
        if self.what == "log":
            return torch.log(inputs - inputs)
        if self.what == "sqrt":
            return (inputs * 0).sqrt() + inputs
        if self.what == "steep":
            return Function.apply(inputs, float("inf"))
        if self.what == "large":
            return Large.apply(inputs)
        if self.what == "two operations":
            return torch.log(inputs - inputs) * 0
        if self.what == "in place":
            return (inputs - inputs).log_()
        if self.what == "room":
            room = torch.empty_like(inputs)
            return room.copy_(inputs - inputs).log()
        if self.what == "caught":
            try:
                self.failing(inputs)
            except ValueError:
                return torch.log(inputs - inputs)
        if self.what == "mask":
            return inputs * torch.stack([inputs, self.masking(inputs)]).softmax(0).sum(0)
        if self.what == "log of a mask":
            return torch.stack([inputs, inputs + self.mask]).softmax(0).sum(0).sub(1).abs().log()
        if self.what == "twice":
            return Large.apply(inputs) + Large.apply(inputs)
        if self.what == "one sample":
            return torch.cat([inputs[:3], inputs[3:4] / 0, inputs[4:]])
        raise ValueError(self.what)


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.turning, self.last = nn.Linear(8, 8), inner, nn.Linear(8, 8)

    def forward(self, inputs):
        return self.last(self.turning(torch.relu(self.first(inputs))))


@MODELS.register("turning")
def turning(input_shape, output_size, what: str = "log", at: int = 7, dropout: float = 0.0) -> nn.Module:
    """A network that goes wrong in ``1.turning``."""
    block = Block(Turning(what, at))
    # The loop sets the mode, whatever it is before.
    return nn.Sequential(nn.Linear(6, 8), block, nn.Dropout(dropout), nn.Linear(8, output_size)).eval()


class OwnCode(nn.Module):
    """Goes wrong between its layers, in its own forward."""
    def __init__(self, outputs, backward):
        super().__init__()
        self.one, self.two, self.backward = nn.Linear(6, 8), nn.Linear(8, outputs), backward

    def forward(self, inputs):
        hidden = self.one(inputs)
        hidden = (hidden * 0).sqrt() + hidden if self.backward else hidden / hidden.new_zeros(1)
        return self.two(hidden)


@MODELS.register("own_code")
def own_code(input_shape, output_size, backward: bool = False) -> nn.Module:
    """A division by zero, or a root of zero, outside of every layer."""
    return OwnCode(output_size, backward)


class Words(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.words, self.turning = nn.Embedding(9, 8, sparse=True), Turning("steep", 7)
        self.out = nn.Linear(8, outputs)

    def forward(self, inputs):
        return self.out(self.turning(self.words((inputs.abs() * 2).long().clamp(max=8)).mean(1)))


@MODELS.register("words")
def words(input_shape, output_size) -> nn.Module:
    """With sparse gradients."""
    return Words(output_size)


class OddLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Turning("log", 1)

    def forward(self, outputs, targets):
        return self.inner((outputs - targets) ** 2).mean()


@LOSSES.register("odd")
def odd() -> nn.Module:
    """Goes wrong in a layer of its own."""
    return OddLoss()


class Fussy(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            if not all(bool(item.grad.isfinite().all()) for item in group["params"]):
                raise ValueError("a gradient is not finite")
        return super().step(closure)


@OPTIMIZERS.register("fussy")
def fussy(parameters, lr: float = 0.1) -> torch.optim.Optimizer:
    """Raises where a gradient is not finite."""
    return Fussy(parameters, lr=lr)


class ScratchLog(scratch.Module):
    def forward(self, inputs):
        return (inputs * 0).log()


@MODELS.register("scratch_log")
def scratch_log(input_shape, output_size) -> scratch.Module:
    """In trainctl's own classes."""
    return scratch.Sequential(scratch.Linear(6, 8), ScratchLog(), scratch.Linear(8, output_size))
'''
WORDS = ("plugins=[parts.py]", "dataset.name=planted", "loss=mse", "batch_size=16", "threads=1", "lr=0.01")


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    path = tmp_path / "parts.py"
    path.write_text(PARTS)
    return path


def break_down(trainctl: Program, *words: str, directory: str = "run") -> Path:
    """Train until it stops, and return the capsule."""
    outcome = trainctl(*WORDS, "epochs=4", f"hydra.run.dir={directory}", *words)
    assert outcome.code == 6, outcome.err
    (path,) = (Path.cwd() / directory / "capsules").iterdir()
    return path


def result_of(path: Path) -> Replay:
    """What the command computes, for a look at more than it prints."""
    from trainctl.config.stored_config import parse_config

    kept = capsule.read(path)
    config: Config = parse_config(kept.config, "capsule", lambda named: None)
    return replay(kept, config, torch.device("cpu"))


def words_of(outcome: Outcome) -> str:
    """Without the line breaks."""
    return " ".join(outcome.out.split())


def names_of(outcome: Outcome) -> list[str]:
    """The layers in the table."""
    lines = outcome.out.splitlines()
    return [line[3:].split()[0] for line in lines[lines.index("") + 2 :]]


# ------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("words", "expected", "line", "remedy"),
    [
        (
            ("dataset.what=input",),
            r"is in the inputs: 1 of 96 values is not finite, in sample \d+ of the batch, counted from 0$",
            "",
            "guard.skip",
        ),
        (
            ("dataset.what=target",),
            r"is in the targets: 1 of 32 values is not finite, in sample \d+ of the batch, counted from 0$",
            "",
            "guard.skip",
        ),
        (
            ("model.name=turning", "model.what=log"),
            r"is in the forward pass, 1\.turning \(Turning\): log gives infinity$",
            "return torch.log(inputs - inputs)",
            "logarithm",
        ),
        (
            ("model.name=turning", "model.what=one sample"),
            r"is in the forward pass, 1\.turning \(Turning\): div gives (infinity|NaN), in sample 3 of the "
            "batch, counted from 0$",
            "inputs[3:4] / 0",
            "division",
        ),
        (
            ("model.name=turning", "model.what='two operations'"),
            r"1\.turning \(Turning\): log gives infinity, then mul gives NaN$",
            "return torch.log(inputs - inputs) * 0",
            "logarithm",
        ),
        (
            ("model.name=turning", "model.what='in place'"),
            r"1\.turning \(Turning\): log gives infinity$",
            "return (inputs - inputs).log_()",
            "logarithm",
        ),
        (
            ("model.name=turning", "model.what=room", "deterministic=true"),
            r"1\.turning \(Turning\): log gives infinity$",
            "return room.copy_(inputs - inputs).log()",
            "logarithm",
        ),
        (
            ("model.name=turning", "model.what=caught"),
            r"1\.turning \(Turning\): log gives infinity$",
            "return torch.log(inputs - inputs)",
            "logarithm",
        ),
        (
            ("model.name=turning", "model.what='log of a mask'"),
            r"1\.turning \(Turning\): log gives infinity",
            ".sub(1).abs().log()",
            "logarithm",
        ),
        (
            ("loss.name=odd",),
            r"is in the loss function, loss\.inner \(Turning\): log gives infinity$",
            "return torch.log(inputs - inputs)",
            "logarithm",
        ),
        (
            ("model.name=own_code",),
            r"is in the forward pass, model \(OwnCode\), in its own code before two \(Linear\): "
            "(div|truediv) gives (infinity|NaN)$",
            "hidden / hidden.new_zeros(1)",
            "division",
        ),
        (
            ("model.name=scratch_log", "optim=scratch_adam", "loss=scratch_mse"),
            r"is in the forward pass, 1 \(ScratchLog\): log gives infinity",
            "return (inputs * 0).log()",
            "logarithm",
        ),
        (
            ("model=linear", "dataset.what=large"),
            r"is in the loss function, loss \(MSE\): mse_loss gives infinity$",
            "",
            "extreme outputs",
        ),
        (
            ("model=mlp", "optim=sgd", "lr=1e15"),
            r"is in the forward pass, layers\.4 \(Linear\): linear gives (NaN|infinity)$",
            "",
            "lr=1e+14",
        ),
        (
            ("model=scratch_mlp", "optim=scratch_sgd", "loss=scratch_mse", "lr=1e15"),
            r"is in the forward pass, layers\.4 \(Linear\): addmm gives (NaN|infinity)$",
            "return torch.addmm(",
            "lr=1e+14",
        ),
        (
            ("model.name=turning", "model.what=twice", "guard=full"),
            r"is in the backward pass, 1 \(Block\): the gradients that come together at ReluBackward0 "
            r"overflow in their sum, which reaches 1\.first\.bias and 3 more$",
            "return self.last(self.turning(torch.relu(self.first(inputs))))",
            "",
        ),
        (
            ("model.name=words", "optim=sgd", "optim.fused=false", "guard=full"),
            r"is in the backward pass, turning \(Turning\): FunctionBackward .* reaches words\.weight$",
            "return Function.apply(",
            "",
        ),
        (
            ("model.name=turning", "model.what=steep", "optim.name=fussy", "guard=full"),
            r"is in the backward pass, 1\.turning \(Turning\): FunctionBackward",
            "return Function.apply(",
            "",
        ),
        (
            ("model.name=turning", "model.what=steep", "guard=full"),
            r"is in the backward pass, 1\.turning \(Turning\): FunctionBackward makes an infinite or "
            r"undefined gradient of a finite one, which reaches 1\.first\.bias and 3 more$",
            "return Function.apply(inputs, float(\"inf\"))",
            "",
        ),
        (
            ("model.name=turning", "model.what=sqrt", "guard=full"),
            r"is in the backward pass, 1\.turning \(Turning\): SqrtBackward0 makes an infinite or undefined ",
            "return (inputs * 0).sqrt() + inputs",
            "root",
        ),
        (
            ("model.name=own_code", "model.backward=true", "guard=full"),
            r"is in the backward pass, model \(OwnCode\): SqrtBackward0 makes an infinite or undefined ",
            "hidden = (hidden * 0).sqrt() + hidden",
            "root",
        ),
    ],
)  # fmt: skip
def test_the_place_is_named(
    trainctl: Program, parts: Path, words: tuple[str, ...], expected: str, line: str, remedy: str
) -> None:
    path = break_down(trainctl, *words)
    outcome = trainctl("replay", str(path))
    assert outcome.code == 0, outcome.err
    first = re.search(r"the first value that is not finite (.*?)(?: line | likely )", words_of(outcome))
    assert first is not None, outcome.out
    assert re.search(expected, first[1]), first[1]
    assert line in words_of(outcome)
    assert ("\n  line  " in outcome.out) == bool(line), outcome.out
    likely = words_of(outcome).partition(" likely ")[2].partition("layer ")[0].partition("gradient of ")[0]
    assert remedy in likely


def test_an_infinity_that_does_no_harm_is_passed_over(trainctl: Program, parts: Path) -> None:
    """A mask of scores is minus infinity; it is the loss that overflows."""
    path = break_down(
        trainctl, "model.name=turning", "model.what=mask", "model.at=1", "dataset.what=large target"
    )
    result = result_of(path)
    assert result.where == "in the loss function, loss (MSE): mse_loss gives infinity"


def test_parameters_that_were_bad_before_the_step_are_named(trainctl: Program, parts: Path) -> None:
    kept = read_checkpoint(break_down(trainctl, "model.name=turning"))
    weight = kept.model["1.first.weight"].clone()
    weight[2, 3] = math.inf
    changed = CheckpointData({**kept.model, "1.first.weight": weight}, kept.training, kept.state)
    path = save_checkpoint(Path("other"), changed, finite=False)
    assert result_of(path).where == "in the parameters, before the step: 1.first.weight"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_a_window_of_batches_the_bad_one_is_told(trainctl: Program, parts: Path, precision: str) -> None:
    words = (
        "model.name=turning",
        "model.what=one sample",
        "train.accumulate=4",
        f"train.precision={precision}",
    )
    path = break_down(trainctl, *words)
    assert path.name == "step-00000002"
    outcome = trainctl("replay", str(path))
    assert outcome.code == 0, outcome.err
    text = words_of(outcome)
    assert "1.turning (Turning): div gives" in text
    # The 7th batch is the third of the second window.
    assert "in sample 35 of the batch" in text
    assert "batch 3 of the step's" in text
    assert ("precision bf16" in text) == (precision == "bf16")
    assert names_of(outcome) == ["inputs", "0", "1.first", "1.turning", "1.last", "2", "3", "loss"]


def test_in_a_window_only_one_batch_may_be_bad(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, "dataset.what=input", "train.accumulate=4", "model=linear")
    outcome = trainctl("replay", str(path))
    assert outcome.code == 0, outcome.err
    found = re.search(r"1 of 384 values is not finite, in sample (\d+) of the batch", words_of(outcome))
    assert found is not None, outcome.out
    assert f"batch {int(found[1]) // 16 + 1} of the step's" in words_of(outcome)


def test_gradients_that_overflow_in_their_sum_are_told(trainctl: Program, parts: Path) -> None:
    words = (
        "model.name=turning",
        "model.what=large",
        "model.at=1",
        "model.freeze=['0.*','1.last.*','3.*','1.first.weight']",
        "train.accumulate=4",
        "guard=full",
    )
    path = break_down(trainctl, *words, "batch_size=4")
    where = result_of(path).where
    assert where == "the gradients of the batches are finite, their sum is not: 1.first.bias"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("train.precision=bf16",),
        pytest.param(("optim=sgd",), marks=pytest.mark.slow),
        pytest.param(("scheduler=cosine",), marks=pytest.mark.slow),
    ],
    ids=lambda words: " ".join(words),
)
@pytest.mark.parametrize("deferred", [False, True])
def test_the_loss_is_that_of_training_to_the_last_bit(
    trainctl: Program,
    parts: Path,
    words: tuple[str, ...],
    deferred: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dropout: the same masks are drawn."""
    from functools import partial

    from trainctl.training.hooks.guard import Guard

    if deferred:
        monkeypatch.setattr("trainctl.training.build.Guard", partial(Guard, deferred=True))
    path = break_down(
        trainctl, "model.name=turning", "model.what=steep", "model.dropout=0.5", "guard=full", *words
    )
    assert path.name == "step-00000007"
    recorded = re.search(r"\(loss (.*)\)", capsule.read(path).why)
    assert recorded is not None
    result = result_of(path)
    assert result.loss == float(recorded[1])
    assert "1.turning (Turning): FunctionBackward" in str(result.where)
    assert result_of(path) == result


def test_by_hand_loops_are_replayed(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, "model.name=turning", "loop=parameters", "optim=sgd")
    assert "1.turning (Turning): log" in str(result_of(path).where)


def test_a_loop_without_autograd_is_replayed(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, "model=linear", "loop=derivatives", "optim=sgd", "dataset.what=input")
    assert str(result_of(path).where).startswith("in the inputs: 1 of 96 values")


def test_the_table_has_the_layers_around_the_place(trainctl: Program, parts: Path) -> None:
    outcome = trainctl("replay", str(break_down(trainctl, "model.name=turning")))
    table = outcome.out[outcome.out.index("   layer") :].splitlines()
    assert names_of(outcome) == ["inputs", "0", "1.first", "1.turning", "1.last", "2", "3", "loss"]
    assert [line[0] for line in table[1:]] == [" ", " ", " ", ">", " ", " ", " ", " "]
    cells = table[4].split()
    assert cells == [">", "1.turning", "Turning", "(16,", "8)", "-", "-", "none"]
    assert table[2].endswith("all")
    assert "step 7 again; in training, the loss is nan" in outcome.out
    assert "learning rate  0.01\n" in outcome.out


def test_of_a_backward_pass_the_table_has_gradients_in_its_order(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, "model.name=turning", "model.what=steep", "guard=full")
    outcome = trainctl("replay", str(path))
    assert names_of(outcome) == ["loss", "3", "2", "1.last", "1.turning", "1.first", "0"]
    assert outcome.out.splitlines()[-1].endswith("none")
    assert outcome.out.splitlines()[-3].endswith("all")
    assert outcome.out.splitlines()[-3].startswith(">  1.turning")


def test_threads_and_determinism_are_those_of_training(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, "model.name=turning", "threads=2", "deterministic=true")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    assert trainctl("replay", str(path)).code == 0
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()


def test_on_a_terminal_it_has_the_same_words(
    trainctl: Program, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")

    class Terminal(StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    result = result_of(break_down(trainctl, "model.name=turning"))
    plain, rich = StringIO(), Terminal()
    show(result, plain)
    show(result, rich)
    words = re.sub(r"\x1b\[[0-9;]*m", "", rich.getvalue()).split()
    assert sorted(words) == sorted(plain.getvalue().split())
    assert "\x1b[" in rich.getvalue()


# ------------------------------------------------------------------- which capsule


@pytest.mark.slow
def test_a_capsule_needs_neither_data_nor_run_nor_folder(tmp_path: Path) -> None:
    """In new processes, as a person does it: the file is gone, the run is gone, the folder is another."""
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    generator = np.random.default_rng(0)
    np.savez(home / "d.npz", x=generator.normal(size=(200, 6)), y=generator.integers(0, 3, 200))
    words = ("dataset=npz", "dataset.path=d.npz", "optim=sgd", "lr=1e18", "threads=1", "hydra.run.dir=run")
    stopped = run_program(*words, cwd=home)
    assert stopped.returncode == 6, stopped.stderr
    command = re.search(r"trainctl (replay \S+)", stopped.stderr)
    assert command is not None
    before = run_program(*command[1].split(), cwd=home)
    assert before.returncode == 0, before.stderr
    (path,) = (home / "run/capsules").iterdir()
    shutil.move(path, away / "kept")
    shutil.rmtree(home)
    after = run_program("replay", "kept", cwd=away)
    assert after.returncode == 0, after.stderr
    assert after.stdout == before.stdout
    assert "in the forward pass, layers." in " ".join(after.stdout.split())


def test_a_run_stands_for_its_newest_capsule(trainctl: Program, parts: Path, tmp_path: Path) -> None:
    path = break_down(trainctl, "model.name=turning", "name=mine", directory="outputs/one")
    shutil.copytree(path, path.with_name("step-00000003"))
    for word in ("outputs/one", "mine", "last"):
        outcome = trainctl("replay", word)
        assert outcome.code == 0, outcome.err
        assert outcome.err == "the newest capsule: outputs/one/capsules/step-00000007\n"
        assert outcome.out.startswith("step 7 again")


def test_a_run_without_a_capsule_says_so(trainctl: Program, tmp_path: Path) -> None:
    assert trainctl("train.max_steps=1", "threads=1", "hydra.run.dir=run").code == 0
    outcome = trainctl("replay", "run")
    assert outcome.code == 4
    assert "has no capsule" in outcome.err


# ------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "replay needs a CAPSULE"),
        (("a", "b"), "replay takes one CAPSULE, not 2"),
        (("nowhere",), "nowhere: no such directory"),
        (("parts.py",), "parts.py: is a file"),
        (("run", "--trust-plugin"), "did you mean --trust-plugins?"),
        (("run", "--device"), "--device: needs a value"),
        (("run", "--device="), "--device: needs a value"),
        (("run", "--device=abacus"), "--device abacus: no such device"),
        (("run", "-m"), "sweeps go with training and plan only"),
    ],
)
def test_words_that_are_wrong_are_usage_errors(
    trainctl: Program, parts: Path, words: tuple[str, ...], message: str
) -> None:
    if "--device=abacus" in words:
        break_down(trainctl, "model.name=turning")
    outcome = trainctl("replay", *words)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err
    assert outcome.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, "model.name=turning")
    outcome = trainctl("replay", str(path), "--device", "cuda")
    assert outcome.code == 2
    assert "no CUDA device" in outcome.err
    # A step that was trained on one is run on the CPU, and that is said.
    kept = read_checkpoint(path)
    state = {**kept.state, "capsule": {**kept.state["capsule"], "device": "cuda"}}
    training = {**kept.training, "batch.random": torch.zeros(16, dtype=torch.uint8)}
    other = save_checkpoint(Path("other"), CheckpointData(kept.model, training, state))
    outcome = trainctl("replay", str(other))
    assert outcome.code == 0, outcome.err
    assert "cpu, not cuda as in training: random numbers such as dropout masks are others" in words_of(
        outcome
    )


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_flipped_byte_is_noticed(trainctl: Program, parts: Path, name: str) -> None:
    path = break_down(trainctl, "model.name=turning")
    content = bytearray((path / name).read_bytes())
    for place in (0, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 1
        (path / name).write_bytes(flipped)
        outcome = trainctl("replay", str(path))
        assert outcome.code == 4, outcome.err
        assert str(path) in outcome.err
        assert outcome.out == ""


def test_what_is_no_capsule_is_refused(trainctl: Program, parts: Path, tmp_path: Path) -> None:
    path = break_down(trainctl, "model.name=turning", "checkpoint.every_steps=2")
    (tmp_path / "empty").mkdir()
    (other,) = (tmp_path / "run/checkpoints").glob("step-*")
    for folder, code, message in (
        (tmp_path / "empty", 2, "there is no capsule and no run here"),
        (other, 4, "not a capsule"),
    ):
        outcome = trainctl("replay", str(folder))
        assert (outcome.code, message in outcome.err) == (code, True), outcome.err
    (path / "manifest.json").unlink()
    assert trainctl("replay", str(path)).code == 4


def test_pickles_and_links_are_refused(trainctl: Program, parts: Path, tmp_path: Path) -> None:
    path = break_down(trainctl, "model.name=turning")
    marker = tmp_path / "ran"

    class Bad:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {marker}",)

    for name in ("more.pkl", "extra"):
        (path / name).write_bytes(pickle.dumps(Bad()))
        outcome = trainctl("replay", str(path))
        assert (outcome.code, "pickle" in outcome.err) == (3, True), outcome.err
        (path / name).unlink()
    assert trainctl("replay", str(path)).code == 0
    (path / "model.safetensors").rename(path.parent / "elsewhere")
    (path / "model.safetensors").symlink_to(path.parent / "elsewhere")
    outcome = trainctl("replay", str(path))
    assert (outcome.code, "is a link" in outcome.err) == (3, True), outcome.err
    assert not marker.exists()


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state and make the manifest fit: what somebody else may have made."""
    state = json.loads((path / "state.json").read_text())
    change(state)
    content = json.dumps(state).encode()
    (path / "state.json").write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (path / "manifest.json").write_bytes(json.dumps(manifest, indent=1).encode())


def test_a_config_that_calls_something_is_refused(trainctl: Program, parts: Path, tmp_path: Path) -> None:
    path = break_down(trainctl, "model.name=turning")

    def call(state: dict[str, Any]) -> None:
        config = state["capsule"]["config"]
        state["capsule"]["config"] = config.replace("model:\n", "model:\n  _target_: os.system\n")

    rewritten(path, call)
    outcome = trainctl("replay", str(path), "--trust-plugins")
    assert outcome.code == 3
    assert "_target_" in outcome.err


def test_a_changed_plugin_is_not_run_unless_it_is_trusted(
    trainctl: Program, parts: Path, tmp_path: Path
) -> None:
    path = break_down(trainctl, "model.name=turning")
    marker = tmp_path / "ran"
    parts.write_text(
        PARTS.replace("torch.log(inputs - inputs)", "inputs") + f"\n__import__('os').mkdir({str(marker)!r})\n"
    )
    from trainctl.registry import plugins

    plugins._loaded.clear()
    outcome = trainctl("replay", str(path))
    assert outcome.code == 3
    assert "--trust-plugins" in outcome.err
    assert not marker.exists()
    from trainctl.registry import COMPONENTS

    for group in ("dataset", "model"):
        entries = COMPONENTS[group]._entries
        for name in ("planted", "turning", "own_code", "scratch_log"):
            entries.pop(name, None)
    outcome = trainctl("replay", str(path), "--trust-plugins")
    assert marker.exists()
    # This model does nothing wrong: it is said plainly that the step is finite now.
    assert outcome.code == 1
    assert "found nothing: loss and gradients are finite" in words_of(outcome)
    assert outcome.err.startswith("error: step 7 is finite this time: when it was trained, the loss is nan\n")


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no config": lambda state: state["capsule"].pop("config"),
    "config is a list": lambda state: state["capsule"].update(config=["a"]),
    "capsule is text": lambda state: state.update(capsule="here"),
    "no why": lambda state: state["capsule"].pop("why"),
    "threads is text": lambda state: state["capsule"].update(threads="two"),
    "plugins is a number": lambda state: state["capsule"].update(plugins=3),
    "a plugin without a digest": lambda state: state["capsule"]["plugins"][0].pop("sha256"),
    "no data": lambda state: state.pop("data"),
    "data is none": lambda state: state.update(data=None),
    "a shape of text": lambda state: state["data"].update(input_shape="abc"),
    "no output size": lambda state: state["data"].pop("output_size"),
    "counts of text": lambda state: state["data"].update(class_counts=["a"]),
    "no step": lambda state: state.pop("step"),
    "no optimizer": lambda state: state.pop("optimizer"),
    "optimizer is text": lambda state: state.update(optimizer="adam"),
    "optimizer of other groups": lambda state: state.update(optimizer={"items": [["param_groups", []]]}),
    "no random": lambda state: state.pop("random"),
    "random is a number": lambda state: state.update(random=5),
    "a tensor that is not there": lambda state: state.update(random={"tensor": "nowhere"}),
}


def test_state_that_is_not_what_is_written_is_no_usable_capsule(
    trainctl: Program, parts: Path, tmp_path: Path
) -> None:
    path = break_down(trainctl, "model.name=turning")
    for name, change in BROKEN.items():
        other = tmp_path / "broken" / name
        shutil.copytree(path, other)
        rewritten(other, change)
        outcome = trainctl("replay", str(other))
        assert outcome.code == 4, (name, outcome.err)
        assert len(outcome.err.splitlines()) <= 2, (name, outcome.err)


def test_parameters_of_another_model_do_not_fit(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, "model.name=turning")

    def other_model(state: dict[str, Any]) -> None:
        config = state["capsule"]["config"]
        state["capsule"]["config"] = config.replace("name: turning", "name: own_code")

    rewritten(path, other_model)
    outcome = trainctl("replay", str(path))
    assert outcome.code in (2, 4)
    assert "internal" not in outcome.err


def test_help_names_it(trainctl: Program) -> None:
    outcome = trainctl("replay", "--help")
    assert outcome.code == 0
    assert "replay CAPSULE" in outcome.out
