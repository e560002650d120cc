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


GROUPS = "optim.groups={layers.0.*:{lr:0.01},*.bias:{weight_decay:0,lr_scale:0.5}}"


def test_settings_of_groups_by_name_the_last_pattern_wins() -> None:
    run = built("model.hidden=[8]", "optim=adamw", "lr=0.004", "optim.weight_decay=0.1", GROUPS)
    names = {id(item): name for name, item in run.model.named_parameters()}
    found = {
        names[id(item)]: (group["lr"], group["weight_decay"])
        for group in run.optimizer.param_groups
        for item in group["params"]
    }
    assert found == {
        "layers.0.weight": (0.01, 0.1),
        "layers.0.bias": (0.002, 0),
        "layers.2.weight": (0.004, 0.1),
        "layers.2.bias": (0.002, 0),
    }
    # What is logged as the learning rate is the optimizer's own.
    assert run.optimizer.param_groups[0]["lr"] == 0.004
    assert len(run.optimizer.param_groups) == 3


def test_groups_that_say_nothing_new_change_no_bit() -> None:
    plain, same = (
        built("lr=0.01", *words) for words in ((), ("optim.groups={layers.2.*:{lr:0.01,weight_decay:0.0}}",))
    )
    assert len(same.optimizer.param_groups) == 2
    for run in (plain, same):
        for batch in run.train_loader.batches():
            run.step(run.model, run.criterion, run.optimizer, batch.inputs, batch.targets, run.precision)
    for name, item in plain.model.state_dict().items():
        assert torch.equal(item, same.model.state_dict()[name])


@pytest.mark.parametrize(
    "scheduler",
    ["cosine", "cosine_restarts", "exponential", "inverse_sqrt", "linear", "multi_step", "one_cycle",
     "polynomial", "step"],
)  # fmt: skip
def test_schedulers_scale_each_group(scheduler: str) -> None:
    more = ("++scheduler.final=0.1",) if scheduler in ("cosine", "cosine_restarts", "linear") else ()
    words = ("train.max_steps=30", f"scheduler={scheduler}", *more)
    run = built(*words, "optim.groups={layers.0.*:{lr_scale:0.25}}")
    rates = []
    for _ in range(30):
        first, second = (group["lr"] for group in run.optimizer.param_groups)
        assert second == pytest.approx(first / 4, rel=1e-9)
        rates.append(first)
        run.optimizer.step()
        run.scheduler.step()
    assert len(set(rates)) > 1 or scheduler in ("multi_step", "step")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.groups={layer.0.*:{lr:0.1}}"], "did you mean layers.0.*?"),
        (["optim.groups={layers.0.*:{lr:0.1}}", "model.freeze=[layers.0.*]"], "no parameter that trains"),
        (["optim.groups={*:{lrr:0.1}}"], "optimizer adam has no such setting"),
        (["optim.groups={*:{lr:-1}}"], "optim.groups.*.lr=-1: must be a number greater than 0"),
        (["optim.groups={*:{lr:big}}"], "must be a number greater than 0"),
        (["optim.groups={*:{lr:0.1,lr_scale:2}}"], "has both lr and lr_scale"),
        (["optim.groups={*:{fused:true}}"], "no such setting"),
        (["optim.groups={*:{}}"], "is empty"),
        (["optim.groups={*.bias:{momentum:0.5}}", "optim=muon"], "AdamW has no momentum"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_meant_are_refused(trainctl, words: list[str], said: str) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert said in outcome.err


def test_a_run_with_groups_says_so_and_goes_on_with_them(trainctl, tmp_path: Path) -> None:
    words = ("threads=1", "epochs=1", GROUPS, "optim=adamw", "checkpoint.every_steps=3")
    outcome = trainctl(*words, "hydra.run.dir=whole")
    said = "layers.0.* lr 0.01 (2 of 6 tensors); *.bias weight_decay 0, lr_scale 0.5 (3 of 6 tensors)"
    assert f"groups    {said}" in outcome.out
    assert json.loads((tmp_path / "whole/run.json").read_text())["environment"]["groups"] == said
    assert trainctl(*words, "train.max_steps=7", "hydra.run.dir=parts").code == 0
    outcome = trainctl("resume", "parts", "train.max_steps=null", "optim.groups={layers.0.*:{lr:0.02}}")
    assert outcome.code == 2
    assert "cannot change in the middle of a run" in outcome.err
    assert trainctl("resume", "parts", "train.max_steps=null").code == 0
    ends = [package.load(tmp_path / run, which="last").state_dict() for run in ("whole", "parts")]
    assert all(torch.equal(item, ends[1][name]) for name, item in ends[0].items())


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


def test_layer_decay_needs_to_know_the_layers(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("optim.layer_decay=0.5")
    assert outcome.code == 2
    assert "model=mlp does not say which layer a parameter is in" in outcome.err
    assert trainctl("optim.layer_decay=1.5").code == 2
    (tmp_path / "own.py").write_text(
        "import torch\n"
        "from trainctl.registry import MODELS\n"
        "@MODELS.register('own')\n"
        "class Own(torch.nn.Sequential):\n"
        "    def __init__(self, known: bool = True):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Linear(8, 10))\n"
        "        self.parameter_layers = {'1.weight': 0, '1.bias': 0, '2.weight': 1, '2.bias': 1}\n"
        "        known or self.parameter_layers.pop('1.bias')\n"
    )
    words = ("plugins=[./own.py]", "model.name=own", "optim.layer_decay=0.5", "epochs=1", "threads=1")
    outcome = trainctl(*words)
    assert outcome.code == 0, outcome.err
    assert "groups    layer_decay 0.5: lr 0.001 down to 0.0005 in 2 layers" in outcome.out
    outcome = trainctl(*words, "model.known=false")
    assert outcome.code == 2
    assert "parameter_layers lack 1.bias" in outcome.err
