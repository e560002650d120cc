"""Models of timm: adapted to the data, weights from a file, layers that learn at rates of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from trainctl.config.composer import Composer
from trainctl.errors import ConfigError
from trainctl.registry import MODELS
from trainctl.training.build import build

pytestmark = [
    pytest.mark.slow,  # importing timm
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed"),
]


def model(shape: tuple[int, ...], outputs: int = 5, **settings: Any) -> Any:
    return MODELS.load("timm")(shape, outputs, **settings)


@pytest.mark.parametrize(
    ("arch", "shape"), [("resnet10t", (1, 40, 33)), ("vit_tiny_patch16_224", (2, 32, 48))]
)
def test_it_takes_the_datas_channels_and_size(arch: str, shape: tuple[int, ...]) -> None:
    built = model(shape, arch=arch)
    assert built(torch.randn(2, *shape)).shape == (2, 5)
    assert set(built.parameter_layers) == {name for name, _ in built.named_parameters()}


def test_weights_of_a_file_are_adapted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stored = model((3, 32, 32), 1000, arch="vit_tiny_patch16_224").state_dict()
    save_file(stored, tmp_path / "w.safetensors")
    built = model(
        (3, 32, 32), arch="vit_tiny_patch16_224", weights=str(tmp_path / "w.safetensors")
    ).state_dict()
    for name, each in built.items():
        assert torch.equal(each, stored[name]) != name.startswith("head.")


@pytest.mark.parametrize(
    ("settings", "said", "remedy"),
    [
        ({"arch": "resnet81"}, "timm has no such model", "did you mean model.arch=resnet"),
        ({"arch": "hf-hub:someone/else"}, "timm has no such model", ""),
        ({"weights": "default"}, "not downloaded without being asked to", "model.download=true"),
        ({"weights": "w.bin"}, "must be a file that ends in .safetensors", "pickles"),
        ({"weights": "absent.safetensors"}, "cannot be read", "another file"),
        ({"arch": "vgg11", "drop_path": 0.1}, "timm cannot make it", ""),
    ],
)
def test_what_it_cannot_be_is_said(settings: dict[str, Any], said: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        model((3, 32, 32), **settings)
    assert remedy in error.value.problems[0].remedy


def test_layers_before_the_last_learn_more_slowly() -> None:
    words = (
        "dataset=synthetic", "++dataset.shape=[3,32,32]", "model=timm", "++model.arch=vit_tiny_patch16_224",
        "optim=adamw", "++optim.lr=0.01", "++optim.layer_decay=0.5", "++optim.groups={blocks.11.*:{lr:0.3}}",
        "++optim.no_decay=[biases]",
    )  # fmt: skip
    built = build(Composer().compose(words).config)
    names = {id(item): name for name, item in built.run.model.named_parameters()}
    rates = {
        names[id(item)]: (group["lr"], group["weight_decay"])
        for group in built.run.optimizer.param_groups
        for item in group["params"]
    }
    assert rates["head.weight"] == (0.01, 0.01)
    assert rates["norm.weight"] == (0.005, 0.01)
    assert rates["blocks.0.attn.qkv.bias"] == (pytest.approx(0.01 * 0.5**12), 0)
    assert rates["patch_embed.proj.weight"] == (pytest.approx(0.01 * 0.5**13), 0.01)
    assert rates["blocks.11.mlp.fc1.weight"] == (0.3, 0.01)
    assert built.choices["groups"].startswith(
        "layer_decay 0.5: lr 0.01 down to 1.22e-06 in 14 layers; blocks.11"
    )


def test_a_run_on_images(trainctl: Any) -> None:
    words = (
        "dataset=digits",
        "dataset.limit=60",
        "model=timm",
        "model.arch=resnet10t",
        "epochs=1",
        "threads=1",
    )
    outcome = trainctl(*words, "optim.layer_decay=0.7", "name=run")
    assert outcome.code == 0, outcome.err
    assert "layer_decay 0.7" in outcome.out
    assert trainctl("eval", "run").code == 0
