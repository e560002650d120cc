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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Outcome
from tests.helpers.display import Terminal
from tests.helpers.program import run as run_program
from trainctl.analysis.replay import Replay, replay
from trainctl.checkpoint import bad_step
from trainctl.checkpoint.format import (
    CheckpointData,
    read_checkpoint,
    save_checkpoint,
)
from trainctl.config.settings import Config
from trainctl.errors import ConfigError
from trainctl.ui.replay import show

Program = Callable[..., Outcome]

PARTS = """
import torch
from torch import nn
from trainctl.lessons import scratch
from trainctl.data import Data, Split
from trainctl.registry import DATASETS, LOSSES, MODELS, OPTIMIZERS

PLANTED = {"input": ("inputs", (5, 3), torch.inf), "target": ("targets", (5, 1), torch.nan),
           "large": ("inputs", 5, 3e38), "large target": ("targets", 5, 3e38)}


@DATASETS.register("planted")
def planted(what: str = "") -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(count, 6, generator=generator) for count in (128, 32)]
    train, val = (Split(each, each[:, :2] * 2) for each in inputs)
    if what:
        tensor, place, value = PLANTED[what]
        getattr(train, tensor)[place] = value
    return Data(name="planted", task="regression", train=train, val=val, test=None, input_shape=(6,),
                output_size=2, classes=(), transform=nn.Identity())


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(context, inputs, change):
        context.change = change
        return inputs.clone()

    @staticmethod
    def backward(context, gradient):
        return context.change(gradient), None


def large(inputs):
    return Backward.apply(inputs, lambda each: torch.full_like(each, 8e37 if len(each) == 4 else 3e38))


class Masking(nn.Module):
    def forward(self, inputs):
        return torch.full_like(inputs, -torch.inf)


class Turning(nn.Module):
    # A buffer counts the training calls, so that a capsule knows them.
    def __init__(self, what, at):
        super().__init__()
        self.what, self.at, self.masking = what, at, Masking()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        self.calls += self.training
        if not self.training or self.calls < self.at:
            return inputs
        return {
            "log": lambda: torch.log(inputs - inputs),
            "overwritten": lambda: (inputs * 1).sub_(inputs).log_(),
            "sqrt": lambda: (inputs * 0).sqrt() + inputs,
            "steep": lambda: Backward.apply(inputs, lambda gradient: gradient * torch.inf),
            "large": lambda: large(inputs),
            "twice": lambda: large(inputs) + large(inputs),
            "mask": lambda: inputs * torch.stack([inputs, self.masking(inputs)]).softmax(0).sum(0),
            "one sample": lambda: torch.cat([inputs[:3], inputs[3:4] / 0, inputs[4:]]),
        }[self.what]()


class Block(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.turning, self.last = nn.Linear(8, 8), inner, nn.Linear(8, 8)

    def forward(self, inputs):
        return self.last(self.turning(torch.relu(self.first(inputs))))


@MODELS.register("turning")
def turning(input_shape, output_size, what: str = "log", at: int = 7, dropout: float = 0.0) -> nn.Module:
    block = Block(Turning(what, at))
    # The loop sets the mode, whatever it is before.
    return nn.Sequential(nn.Linear(6, 8), block, nn.Dropout(dropout), nn.Linear(8, output_size)).eval()


@MODELS.register("own_code")
class OwnCode(nn.Module):
    # Goes wrong between its layers.
    def __init__(self, input_shape, output_size, backward: bool = False):
        super().__init__()
        self.one, self.two, self.backward = nn.Linear(6, 8), nn.Linear(8, output_size), backward

    def forward(self, inputs):
        hidden = self.one(inputs)
        hidden = (hidden * 0).sqrt() + hidden if self.backward else hidden / hidden.new_zeros(1)
        return self.two(hidden)


@MODELS.register("words")
class Words(nn.Module):
    # Has sparse gradients.
    def __init__(self, input_shape, output_size):
        super().__init__()
        self.words, self.turning = nn.Embedding(9, 8, sparse=True), Turning("steep", 7)
        self.out = nn.Linear(8, output_size)

    def forward(self, inputs):
        return self.out(self.turning(self.words((inputs.abs() * 2).long().clamp(max=8)).mean(1)))


@LOSSES.register("odd")
class OddLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Turning("log", 1)

    def forward(self, outputs, targets):
        return self.inner((outputs - targets) ** 2).mean()


@OPTIMIZERS.register("fussy")
class Fussy(torch.optim.SGD):
    def __init__(self, parameters, lr: float = 0.1):
        super().__init__(parameters, lr=lr)

    def step(self, closure=None):
        if not all(bool(item.grad.isfinite().all()) for item in self.param_groups[0]["params"]):
            raise ValueError("a gradient is not finite")
        return super().step(closure)


class ScratchLog(scratch.Module):
    def forward(self, inputs):
        return (inputs * 0).log()


@MODELS.register("scratch_log")
def scratch_log(input_shape, output_size) -> scratch.Module:
    return scratch.Sequential(scratch.Linear(6, 8), ScratchLog(), scratch.Linear(8, output_size))
"""
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

    kept = bad_step.read(path)
    config: Config = parse_config(kept.config, "capsule", lambda named: None)
    return replay(kept, config, torch.device("cpu"))


def where(path: Path) -> str:
    place = result_of(path).place
    assert place is not None
    return place.text


def words_of(outcome: Outcome) -> str:
    """Without the line breaks."""
    return " ".join(outcome.out.split())


def names_of(outcome: Outcome) -> list[str]:
    """The layers in the table."""
    lines = outcome.out.splitlines()
    return [line[3:].split()[0] for line in lines[lines.index("") + 2 :]]


# ------------------------------------------------------------------- places


TURNING, FULL, LOG = "model.name=turning", "guard=full", "torch.log(inputs - inputs)"
FORWARD, BACKWARD = "in the output of {}, in the forward pass: ", "in the backward pass, in {}: "
ROW = r"not finite, in row \d+, counted from 0$"
PLACES: list[tuple[tuple[str, ...], str, str, str]] = [
    (("dataset.what=input",), f"in the inputs: 1 of 96 values is {ROW}", "", "guard.skip"),
    (("dataset.what=target", "loss=scratch_mse"),
     f"in the targets: 1 of 32 values is {ROW}", "", "guard.skip"),
    ((TURNING,), FORWARD.format(r"1\.turning \(Turning\)") + "128 of .* finite$", LOG, "logarithm"),
    ((TURNING, "model.what='one sample'"), r"1\.turning .* in row 3, ", "inputs[3:4] / 0", "division"),
    ((TURNING, "model.what=overwritten"), FORWARD.format(r"1\.turning \(Turning\)"), "sub_(inputs).log_()",
     "logarithm"),
    (("loss.name=odd",), r"in the output of loss\.inner \(Turning\), in the loss", LOG, "logarithm"),
    (("model.name=own_code",), FORWARD.format(r"model \(OwnCode\)"), "hidden / hidden", "division"),
    (("model.name=scratch_log", "optim=scratch_adam", "loss=scratch_mse"),
     FORWARD.format(r"1 \(ScratchLog\)"), "return (inputs * 0).log()", "logarithm"),
    (("model=linear", "dataset.what=large"), r"output of loss \(MSELoss\), in", "", "extreme outputs"),
    # The infinity of a mask does no harm.
    ((TURNING, "model.what=mask", "model.at=1", "dataset.what='large target'",
      "dataset.scale_target=false"),
     r"output of loss \(MSELoss\), in the loss", "", "extreme outputs"),
    (("model=mlp", "optim=sgd", "lr=1e15"), FORWARD.format(r"layers\.4 \(Linear\)"), "", "lr=1e+14"),
    (("model=scratch_mlp", "optim=scratch_sgd", "loss=scratch_mse", "lr=1e15"),
     FORWARD.format(r"layers\.4 \(Linear\)"), "return torch.addmm(", "lr=1e+14"),
    ((TURNING, "model.what=twice", FULL),
     BACKWARD.format(r"1 \(Block\)") + r"Relu.* sums finite gradients .* 1\.first\.bias and 3 more$",
     "return self.last(self.turning(", ""),
    (("model.name=words", "optim=sgd", "optim.fused=false", FULL),
     BACKWARD.format(r"turning \(Turning\)") + r".* gradient of words\.weight$", "Backward.apply(", ""),
    ((TURNING, "model.what=steep", "optim.name=fussy", FULL),
     BACKWARD.format(r"1\.turning \(Turning\)") + "Backward.* turns a finite gradient into a bad one",
     "Backward.apply(", ""),
    ((TURNING, "model.what=sqrt", FULL), r"1\.turning \(Turning\): SqrtB", "* 0).sqrt()", "root"),
    (("model.name=own_code", "model.backward=true", FULL),
     BACKWARD.format(r"model \(OwnCode\)") + "SqrtBackward0 turns", "(hidden * 0).sqrt() + hidden", "root"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected", "line", "remedy"), PLACES)
@pytest.mark.slow
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


@pytest.mark.slow
def test_parameters_that_were_bad_before_the_step_are_named(trainctl: Program, parts: Path) -> None:
    kept = read_checkpoint(break_down(trainctl, TURNING))
    weight = kept.model["1.first.weight"].clone()
    weight[2, 3] = math.inf
    changed = CheckpointData({**kept.model, "1.first.weight": weight}, kept.training, kept.state)
    path = save_checkpoint(Path("other"), changed)
    assert where(path) == "in the parameters, before the step: 1.first.weight"


@pytest.mark.quick(1)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_a_window_of_batches_the_bad_one_is_told(trainctl: Program, parts: Path, precision: str) -> None:
    words = (TURNING, "model.what='one sample'", "train.accumulate=4", f"train.precision={precision}")
    path = break_down(trainctl, *words)
    assert path.name == "step-00000002"
    outcome = trainctl("replay", str(path))
    assert outcome.code == 0, outcome.err
    text = words_of(outcome)
    assert "1.turning (Turning), in the forward pass: 8 of 128 values are not finite, in row 3," in text
    # The 7th batch is the third of the second window.
    assert "batch 3 of the step's" in text
    assert f"precision {precision}" in text
    assert names_of(outcome) == ["inputs", "0", "1.first", "1.turning", "1.last", "2", "3", "targets"]


@pytest.mark.slow
def test_gradients_that_overflow_in_their_sum_are_told(trainctl: Program, parts: Path) -> None:
    frozen = "model.freeze=['0.*','1.last.*','3.*','1.first.weight']"
    words = (TURNING, "model.what=large", "model.at=1", frozen, "train.accumulate=4", FULL, "batch_size=4")
    path = break_down(trainctl, *words)
    assert where(path) == "in the gradient of 1.first.bias: that of each batch is finite, their sum is not"


@pytest.mark.quick(2)
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("words", [(), ("train.precision=bf16",)], ids=["fp32", "bf16"])
def test_the_loss_is_that_of_training_to_the_last_bit(
    trainctl: Program, parts: Path, words: tuple[str, ...], deferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout: the same masks are drawn."""
    from trainctl.training.hooks.guard import Guard

    def make(*arguments: Any, **_: Any) -> Guard:
        return Guard(*arguments, deferred=True)

    if deferred:
        monkeypatch.setattr("trainctl.training.build.Guard", make)
    path = break_down(trainctl, TURNING, "model.what=steep", "model.dropout=0.5", FULL, *words)
    recorded = re.search(r"\(loss (.*)\)", bad_step.read(path).why)
    assert recorded is not None
    assert result_of(path).loss == float(recorded[1])


@pytest.mark.slow
def test_loops_without_an_optimizer_are_replayed(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, TURNING, "loop=parameters", "optim=sgd")
    assert "1.turning (Turning), in the forward pass" in where(path)
    words = ("model=linear", "loop=derivatives", "optim=sgd", "dataset.what=input")
    assert where(break_down(trainctl, *words, directory="other")).startswith("in the inputs: 1 of 96 values")


def test_the_table_has_the_layers_around_the_place(
    trainctl: Program, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = break_down(trainctl, TURNING, "threads=2", "deterministic=true")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)
    outcome = trainctl("replay", str(path))
    # Those of training.
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, True)
    table = outcome.out[outcome.out.index("   layer") :].splitlines()
    assert names_of(outcome) == ["inputs", "0", "1.first", "1.turning", "1.last", "2", "3", "targets"]
    assert [line[0] for line in table] == [" ", " ", " ", " ", ">", " ", " ", " ", " "]
    assert table[4].split() == [">", "1.turning", "Turning", "(16,", "8)", "–", "–", "none"]
    assert table[2].endswith("all")
    assert "step 7 again; in training, the loss is nan" in outcome.out
    assert "learning rate  0.01\n" in outcome.out

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    show(result_of(path), terminal)
    assert "\x1b[" in terminal.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert [line.rstrip() for line in plain.splitlines()] == outcome.out.splitlines()


@pytest.mark.slow
def test_of_a_backward_pass_the_table_has_gradients_in_its_order(trainctl: Program, parts: Path) -> None:
    outcome = trainctl("replay", str(break_down(trainctl, TURNING, "model.what=steep", FULL)))
    assert names_of(outcome) == ["loss", "3", "2", "1.last", "1.turning", "1.first", "0"]
    place, after = outcome.out.splitlines()[-3], outcome.out.splitlines()[-1]
    assert place.startswith(">  1.turning")
    assert place.endswith("all")
    assert after.endswith("none")


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
    assert "in the output of layers." in " ".join(after.stdout.split())


def test_a_run_stands_for_its_newest_capsule(trainctl: Program, parts: Path, tmp_path: Path) -> None:
    path = break_down(trainctl, TURNING, "name=mine", directory="outputs/one")
    shutil.copytree(path, path.with_name("step-00000003"))
    for word in ("outputs/one", "mine", "last"):
        outcome = trainctl("replay", word)
        assert outcome.code == 0, outcome.err
        assert outcome.err == "the newest capsule: outputs/one/capsules/step-00000007\n"
        assert outcome.out.startswith("step 7 again")


# ------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "replay needs a CAPSULE"),
        (("a", "b"), "replay takes one CAPSULE, not a b"),
        (("nowhere",), "nowhere: no such directory"),
        (("parts.py",), "parts.py: is a file"),
        (("run", "--trust-plugin"), "did you mean --trust-plugins?"),
        (("run", "--device"), "--device: needs a value"),
        (("run", "-m"), "sweeps go with training and plan only"),
    ],
)
def test_words_that_are_wrong_are_usage_errors(
    trainctl: Program, parts: Path, words: tuple[str, ...], message: str
) -> None:
    outcome = trainctl("replay", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(trainctl: Program, parts: Path) -> None:
    path = break_down(trainctl, TURNING)
    for device, message in (("cuda", "no CUDA device"), ("abacus", "--device abacus: no such device")):
        outcome = trainctl("replay", str(path), "--device", device)
        assert outcome.code == 2
        assert message in outcome.err
    # A step that was trained on one is run on the CPU, and that is said.
    kept = read_checkpoint(path)
    state = {**kept.state, "capsule": {**kept.state["capsule"], "device": "cuda"}}
    training = {**kept.training, "batch.random": torch.zeros(16, dtype=torch.uint8)}
    other = save_checkpoint(Path("other"), CheckpointData(kept.model, training, state))
    outcome = trainctl("replay", str(other), "--trust-plugins")  # it lies in no run
    assert outcome.code == 0, outcome.err
    assert "cpu, not cuda as in training: dropout masks and other random numbers differ" in words_of(outcome)


def test_what_is_no_capsule_is_refused(trainctl: Program, parts: Path, tmp_path: Path) -> None:
    path = break_down(trainctl, TURNING, "checkpoint.every_steps=2")
    (other,) = (tmp_path / "run/checkpoints").glob("step-*")
    outcome = trainctl("replay", str(other))
    assert (outcome.code, "not a capsule" in outcome.err) == (4, True), outcome.err
    (path / "manifest.json").unlink()
    assert trainctl("replay", str(path)).code == 4


def test_pickles_and_links_are_refused(trainctl: Program, parts: Path, tmp_path: Path) -> None:
    path = break_down(trainctl, TURNING)
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


@pytest.mark.slow
def test_a_changed_plugin_is_not_run_unless_it_is_trusted(
    trainctl: Program, parts: Path, tmp_path: Path
) -> None:
    path = break_down(trainctl, TURNING)
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


def changed_config(old: str, new: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state["capsule"].update(config=state["capsule"]["config"].replace(old, new))


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no config": lambda state: state["capsule"].pop("config"),
    "config is a list": lambda state: state["capsule"].update(config=["a"]),
    "capsule is text": lambda state: state.update(capsule="here"),
    "threads is text": lambda state: state["capsule"].update(threads="two"),
    "plugins is a number": lambda state: state["capsule"].update(plugins=3),
    "a plugin without a digest": lambda state: state["capsule"]["plugins"][0].pop("sha256"),
    "data is none": lambda state: state.update(data=None),
    "a shape of text": lambda state: state["data"].update(input_shape="abc"),
    "counts of text": lambda state: state["data"].update(class_counts=["a"]),
    "no step": lambda state: state.pop("step"),
    "optimizer is text": lambda state: state["parts"].update(optimizer="adam"),
    "optimizer of other groups": lambda state: state["parts"].update(
        optimizer={"items": [["param_groups", []]]}
    ),
    "random is a number": lambda state: state["parts"].update(random=5),
    "a tensor that is not there": lambda state: state["parts"].update(random={"tensor": "nowhere"}),
    "another model": changed_config("name: turning", "name: mlp"),
    "a call": changed_config("model:\n", "model:\n  _target_: os.system\n"),
}


@pytest.mark.slow
def test_state_that_is_not_what_is_written_is_no_usable_capsule(
    trainctl: Program, parts: Path, tmp_path: Path
) -> None:
    path = break_down(trainctl, TURNING)
    for name, change in BROKEN.items():
        other = tmp_path / "broken" / name
        shutil.copytree(path, other)
        rewritten(other, change)
        outcome = trainctl("replay", str(other), "--trust-plugins")
        assert outcome.code == (3 if name == "a call" else 4), (name, outcome.err)
        assert len(outcome.err.splitlines()) <= 2, (name, outcome.err)


@pytest.mark.parametrize("text", ["- seed: 1", "[]", "- [1, {a: b}]"])
def test_a_config_that_is_a_list_is_none(text: str, tmp_path: Path) -> None:
    from trainctl.config.stored_config import parse_config, plugins_in, read_tree

    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: not a run's config"):
        read_tree(tmp_path / "config.yaml", lambda named: None)
    with pytest.raises(ConfigError, match="the capsule: not a run's config"):
        parse_config(text, "the capsule", lambda named: None, tmp_path)
    with pytest.raises(ConfigError, match="the capsule: not a run's config"):
        plugins_in(text, "the capsule", tmp_path)
