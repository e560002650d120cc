"""Freezing, weight decay for some, and starting from another run's weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import trainctl as package
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.training.build import build


def built(*words: str):
    return build(Composer().compose(["threads=1", "train.max_steps=3", *map(to_hydra, words)]).config).run


def test_frozen_parameters_stay_and_the_rest_moves(trainctl, tmp_path: Path) -> None:
    start = {name: item.clone() for name, item in built().model.state_dict().items()}
    outcome = trainctl("model.freeze=[layers.0.*]", "threads=1", "train.max_steps=3", "hydra.run.dir=run")
    assert outcome.code == 0
    assert "8,320 frozen" in outcome.out
    end = package.load(tmp_path / "run", which="last").state_dict()
    for name, before in start.items():
        assert torch.equal(before, end[name]) == name.startswith("layers.0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.freeze=[convolution*]"], "model.freeze=convolution*: matches no parameter"),
        (["model.freeze=['*']"], "no parameters to train: model.freeze leaves none"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(trainctl, words: list[str], message: str) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert message in outcome.err


def test_no_decay_by_kind_and_by_name() -> None:
    words = ("optim=adamw", "optim.weight_decay=0.5", "model.normalization=batch", "model.hidden=[8]")
    run = built(*words, "optim.no_decay=[biases,norms]")
    decayed, plain = run.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.5, 0.0)
    assert [tuple(item.shape) for item in decayed["params"]] == [(8, 64), (10, 8)]
    assert len(plain["params"]) == 4
    run = built(*words, "optim.no_decay=[layers.0.*]")
    assert [tuple(item.shape) for item in run.optimizer.param_groups[1]["params"]] == [(8, 64), (8,)]


@pytest.mark.slow
def test_init_from_another_run_copies_what_fits_and_reports_it(trainctl, tmp_path: Path) -> None:
    short = ("threads=1", "train.max_steps=3")
    assert trainctl(*short, "hydra.run.dir=first").code == 0
    run = built("init_from=first")
    stored = package.load("first").state_dict()
    assert all(torch.equal(item, stored[name]) for name, item in run.model.state_dict().items())

    outcome = trainctl(*short, "init_from=first", "model.hidden=[128,32]", "hydra.run.dir=second")
    assert outcome.code == 0, outcome.err
    assert "init_from=first: 3 of 6 tensors copied; new: layers.2.weight" in outcome.out
    assert "init_from=first" in (tmp_path / "second/train.log").read_text()
    assert json.loads((tmp_path / "second/run.json").read_text())["status"] == "done"


def test_init_from_last_is_the_run_before(trainctl) -> None:
    assert trainctl("threads=1", "train.max_steps=3").code == 0
    outcome = trainctl("threads=1", "train.max_steps=3", "init_from=last")
    assert outcome.code == 0, outcome.err
    assert "6 of 6 tensors copied" in outcome.out


def test_init_from_something_else_is_refused(trainctl) -> None:
    assert trainctl("init_from=nowhere").code == 2
    assert trainctl("threads=1", "train.max_steps=1", "hydra.run.dir=first").code == 0
    outcome = trainctl("init_from=first", "model=linear")
    assert outcome.code == 2
    assert "no tensor of" in outcome.err


def test_a_run_stores_what_it_started_from_as_a_name_or_an_absolute_path(trainctl, tmp_path: Path) -> None:
    short = ("threads=1", "train.max_steps=1")
    assert trainctl(*short, "name=mine").code == 0
    assert trainctl(*short, "init_from=mine", "hydra.run.dir=by_name").code == 0
    assert "init_from: mine\n" in (tmp_path / "by_name/config.yaml").read_text()
    assert trainctl(*short, "init_from=by_name", "hydra.run.dir=by_path").code == 0
    assert f"init_from: {tmp_path / 'by_name'}\n" in (tmp_path / "by_path/config.yaml").read_text()


_OWN = """
import torch
from torch import nn
from trainctl.registry import MODELS

class Own(nn.Module):
    def __init__(self, inputs, outputs, dtype=torch.float32):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs, dtype=dtype)

    def forward(self, inputs):
        return self.layer(inputs.flatten(1))

class Converting(Own):
    def forward(self, inputs):
        return super().forward(inputs.half()).float()

@MODELS.register("meta")
def meta(output_size: int) -> nn.Module:
    with torch.device("meta"):
        return Own(64, output_size)

@MODELS.register("half")
def half(output_size: int) -> nn.Module:
    return Own(64, output_size, torch.float16)

@MODELS.register("converting")
def converting(output_size: int) -> nn.Module:
    return Converting(64, output_size, torch.float16)
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("meta", 2, "layer.weight is on the meta device"),
        ("half", 2, "keep weights in float32"),
        ("converting", 0, "650 of its parameters train in float16"),
    ],
)
def test_weights_of_other_types_and_places_are_refused_or_said(
    name: str, code: int, said: str, trainctl
) -> None:
    Path("own.py").write_text(_OWN)
    outcome = trainctl("plugins=[./own.py]", f"model.name={name}", "threads=1", "train.max_steps=2")
    assert outcome.code == code, outcome.err
    assert said in outcome.out + outcome.err
