"""A run whose parameters are cut among devices is the run on one; its checkpoints are read like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import trainctl as package
from tests.helpers.ranks import assert_same_run, rows, weights
from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.config.settings import Fsdp
from trainctl.errors import ConfigError
from trainctl.training.sharded import units

pytestmark = pytest.mark.usefixtures("warm_ranks")
FEW = (
    "threads=1",
    "strategy=fsdp",
    "strategy.timeout=60",
    "strategy.min_parameters=1",
    "dataset.limit=203",
    "train.batch_size=32",
    "train.epochs=2",
    "display.mode=none",
)
PLATEAU = ("scheduler=reduce_on_plateau", "scheduler.patience=0", "train.patience=1")


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "devices"),
    [
        # The model is one unit, whose parameters are whole from the last evaluation to the test.
        (("strategy.min_parameters=1000000", "checkpoint.every_steps=1", "train.epochs=1"), 2),
        (
            ("optim=sgd_momentum", "lr=0.1", "train.clip_norm=0.1", "train.ema=0.9", "guard=full", *PLATEAU),
            3,
        ),
        (("optim=adam",), 2),
        (("strategy.wrap=[]", "optim=rmsprop"), 2),
        (("strategy.offload=true", "train.clip_norm=0.1", "train.ema=0.9"), 2),
        (("strategy.wrap=[layers.0,layers.4]", "optim=radam"), 2),
        (("train.accumulate=3", "loss.class_weights=balanced"), 2),
        (("loss.class_weights=balanced", "dataset.limit=191"), 3),
        (("model.freeze=[layers.0.*]", "optim=adamw"), 2),
        (("dataset=thermometer", "model=linear", "loss=huber", "train.batch_size=3", "train.epochs=4"), 2),
        (("model=cnn", "model.normalization=none"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_every_number_is_that_of_one_device(
    words: tuple[str, ...], devices: int, trainctl: Callable[..., Any]
) -> None:
    for run, count in (("one", 1), ("several", devices)):
        outcome = trainctl(*FEW, *words, f"devices={count}", f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    assert_same_run("one", "several")
    assert "fsdp on" in json.loads(Path("several/run.json").read_text())["step"]["name"]


@pytest.mark.quick(1)
@pytest.mark.parametrize(("before", "after"), [(2, 2), (3, 1), (1, 2), (2, 3)])
def test_a_run_resumes_on_any_number_of_devices(
    before: int, after: int, trainctl: Callable[..., Any]
) -> None:
    given = (*FEW, "train.ema=0.9", "checkpoint.every_steps=3", "checkpoint.keep_last=10")
    assert trainctl(*given, f"devices={before}", "hydra.run.dir=whole").code == 0
    assert trainctl(*given, f"devices={before}", "train.max_steps=10", "hydra.run.dir=parts").code == 0
    outcome = trainctl("resume", "parts", "train.max_steps=null", f"devices={after}")
    assert outcome.code == 0, outcome.err
    assert_same_run("whole", "parts")
    if before == after:
        for name, tensor in weights("whole").items():
            assert torch.equal(tensor, weights("parts")[name])


def test_each_process_writes_its_part_and_one_reads_all(trainctl: Callable[..., Any]) -> None:
    assert trainctl(*FEW, "devices=3", "hydra.run.dir=run").code == 0
    checkpoint = sorted(Path("run/checkpoints").iterdir())[-1]
    files = ("model.safetensors", "model-1.safetensors", "model-2.safetensors")
    parts = [load_file(checkpoint / file) for file in files]
    whole = weights("run")
    for name, tensor in whole.items():
        assert [part[name].shape[0] for part in parts] == [
            len(each) for each in torch.empty(len(tensor)).chunk(3)
        ]
        assert torch.equal(torch.cat([part[name] for part in parts]), tensor)
    moments = [load_file(checkpoint / file.replace("model", "training")) for file in files]
    assert sum(len(each["optimizer.state.0.exp_avg"]) for each in moments) == len(whole["layers.0.weight"])
    loaded = package.load("run")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded.state_dict().items())
    outcome = trainctl("eval", "run")
    assert outcome.code == 0
    assert f"{rows('run')[-1]['test/loss']:.4f}" in outcome.out


def test_a_part_that_is_missing_or_damaged_is_named(trainctl: Callable[..., Any]) -> None:
    assert trainctl(*FEW, "devices=2", "train.epochs=1", "hydra.run.dir=run").code == 0
    part = next(Path("run/checkpoints").glob("*/model-1.safetensors"))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    outcome = trainctl("eval", "run")
    assert outcome.code == 4
    assert "model-1.safetensors is damaged" in outcome.err
    part.unlink()
    outcome = trainctl("eval", "run")
    assert outcome.code == 4
    assert "model-1.safetensors" in outcome.err


def test_a_bad_loss_ends_the_run_without_a_capsule(trainctl: Callable[..., Any]) -> None:
    outcome = trainctl(*FEW, "devices=2", "optim=sgd", "lr=1e30", "hydra.run.dir=run")
    assert outcome.code == 6
    assert "no process has the whole model" in outcome.err
    assert not Path("run/capsules").exists()


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("optim=muon",), "optim=muon works on whole matrices"),
        (("optim=scratch_sgd",), "strategy=fsdp needs an optimizer of torch"),
        (("optim=adafactor",), "cannot be done on parts of a parameter"),
        (("strategy.wrap=[nope.*]",), "strategy.wrap=nope.*: matches no layer"),
        (("train.batch_size=1",), "each device needs a sample"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    words: tuple[str, ...], says: str, trainctl: Callable[..., Any]
) -> None:
    outcome = trainctl(*FEW, "devices=2", *words)
    assert outcome.code == 2
    assert says in outcome.err


ATTENTION = """
import torch
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("attention")
class Attention(nn.Module):
    def __init__(self, input_shape, output_size):
        super().__init__()
        self.embed, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(16, output_size, bias=False)
        self.again = nn.Linear(16, output_size, bias=False)
        self.again.weight = self.out.weight

    def forward(self, inputs):
        values = self.embed(inputs.reshape(len(inputs), 8, 8))
        mixed = self.attention(values, values, values, need_weights=False)[0]
        mixed += values  # in place on what a layer returned, which is a view
        return self.out(self.norm(mixed).mean(1)) + self.again(values.mean(1))
"""


@pytest.mark.slow
def test_views_nested_layers_and_tied_weights(trainctl: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "attention.py").write_text(ATTENTION)
    # Not adam: attention has a bias without a gradient, of whose rounding errors adam makes whole steps.
    given = (*FEW, "optim=sgd", "plugins=[./attention.py]", "model.name=attention")
    for run, count in (("one", 1), ("several", 2)):
        outcome = trainctl(*given, f"devices={count}", f"hydra.run.dir={run}")
        assert outcome.code == 0, outcome.err
    assert_same_run("one", "several")


def test_layers_that_are_gathered_on_their_own() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(nn.Linear(2, 4), block, nn.MultiheadAttention(4, 2), nn.Linear(4, 1, bias=False))

    def names(**settings: Any) -> list[str]:
        found = units(model, Fsdp(name="fsdp", **settings))
        named = {id(module): name for name, module in model.named_modules()}
        return sorted(named[id(module)] for module in found)

    assert names(min_parameters=1) == ["0", "1.0", "2", "3"]  # attention with its projection
    assert names(min_parameters=10) == ["0", "1.0", "2"]
    assert names(wrap=[]) == []
    assert names(wrap=["1*"]) == ["1", "1.0", "1.1"]
    with pytest.raises(ConfigError, match=r"strategy\.wrap=9: matches no layer"):
        names(wrap=["9"])
    model[0].weight = block[0].weight
    assert names(min_parameters=1) == ["2", "3"]
