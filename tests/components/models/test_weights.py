"""Weights of a local file: taken whole, or all but the last layer for other classes; else refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trainctl.components.models._weights import read_weights
from trainctl.errors import ConfigError
from trainctl.registry import MODELS

pytestmark = pytest.mark.slow  # importing torchvision and timm
NAMES = ["torchvision", "timm"]
ARCHS = {"torchvision": "shufflenet_v2_x0_5", "timm": "resnet10t"}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def model(name: str, outputs: int, channels: int = 3, **settings: Any) -> nn.Module:
    made: nn.Module = MODELS.load(name)((channels, 32, 32), outputs, **{"arch": ARCHS[name], **settings})
    return made


def new_in(built: nn.Module, stored: dict[str, torch.Tensor]) -> set[str]:
    own = built.state_dict()
    assert set(own) == set(stored)
    return {key for key, each in own.items() if not torch.equal(each, stored[key])}


@pytest.mark.parametrize("form", ["w.safetensors", "w.pt", "nested.pth"])
def test_a_file_with_the_datas_classes_is_taken_whole(name: str, form: str, tmp_path: Path) -> None:
    stored, file = model(name, 4).state_dict(), tmp_path / form
    if form == "w.safetensors":
        save_file(stored, file)
    elif form == "w.pt":
        torch.save(stored, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": each for key, each in stored.items()}}, file)
    built = model(name, 4, weights=str(file))
    assert new_in(built, stored) == set()
    assert not getattr(built, "notices", ())


def test_of_other_classes_all_but_the_last_layer_is_taken_and_said(name: str, tmp_path: Path) -> None:
    stored = model(name, 7).state_dict()
    save_file(stored, tmp_path / "w.safetensors")
    built = model(name, 4, weights=str(tmp_path / "w.safetensors"))
    assert new_in(built, stored) == {"fc.weight", "fc.bias"}
    (notice,) = built.notices  # type: ignore[misc,union-attr]
    assert "has 7 outputs, the data 4" in str(notice)
    assert built(torch.randn(2, 3, 32, 32)).shape == (2, 4)
    gray = model(name, 4, channels=1, weights=str(tmp_path / "w.safetensors"))
    assert gray(torch.randn(2, 1, 32, 32)).shape == (2, 4)


def test_weights_of_another_model_are_refused(name: str, tmp_path: Path) -> None:
    stored = model(name, 4).state_dict()
    key = next(each for each in stored if each.endswith("weight"))
    wrong = [
        {other: each for other, each in stored.items() if other != key},
        {**stored, "extra.weight": torch.zeros(2)},
        {**stored, "fc.weight": torch.zeros(4, 3)},
        {"a": torch.zeros(2)},
    ]
    for outputs in (4, 5):  # with a last layer that begins anew, too
        for number, tensors in enumerate(wrong):
            file = tmp_path / f"{number}.safetensors"
            save_file(tensors, file)
            with pytest.raises(ConfigError, match=r"model\.weights=") as error:
                model(name, outputs, weights=str(file))
            assert "fit" in str(error.value) or "cannot make it" in str(error.value)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize(
    ("content", "form", "said"),
    [
        (None, "absent.safetensors", "cannot be read"),
        (None, "absent.pt", "cannot be read"),
        (None, "w.bin", "must be a file that ends in"),
        (b"no tensors", "w.pt", "cannot be read"),
        (b"no tensors", "w.safetensors", "cannot be read"),
        ({"a": Bomb()}, "w.pt", "cannot be read"),
        ([torch.zeros(2)], "w.pt", "holds no tensors by name"),
        ({"lr": 0.1}, "w.pth", "holds no tensors by name"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_and_nothing_of_it_runs(
    content: Any, form: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path(form).write_bytes(content)
    elif content is not None:
        torch.save(content, form)
    with pytest.raises(ConfigError, match=said):
        read_weights(f"./{form}")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("arch", ["lraspp_mobilenet_v3_large", "fcn_resnet50"])
def test_weights_of_a_model_for_pixels(arch: str, tmp_path: Path) -> None:
    from torchvision import models

    trained = models.get_model(
        arch, weights=None, weights_backbone=None, num_classes=7, aux_loss=arch[0] == "f" or None
    )
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    kept = {f"model.{key}": each for key, each in trained.state_dict().items() if not key.startswith("aux")}
    assert new_in(model("torchvision", 7, arch=arch, weights=f"{tmp_path}/w.pt"), kept) == set()
    built = model("torchvision", 3, channels=1, arch=arch, weights=f"{tmp_path}/w.pt")
    new = {key for key, each in built.state_dict().items() if each.shape != kept[key].shape}
    assert 1 < len(new) <= 5  # the last layers, and the first kernels, of one channel
    assert "has 7 outputs, the data 3" in built.notices[0]  # type: ignore[index,operator]


def test_a_run_says_what_begins_anew_and_is_used_without_the_file(
    name: str, tmp_path: Path, trainctl: Callable[..., Any]
) -> None:
    save_file(model(name, 7).state_dict(), tmp_path / "w.safetensors")
    words = (
        "dataset=digits", "dataset.limit=60", f"model={name}", f"model.arch={ARCHS[name]}", "epochs=1",
        "model.weights=w.safetensors", "threads=1", "batch_size=16",
    )  # fmt: skip
    outcome = trainctl(*words, "name=run")
    assert outcome.code == 0, outcome.err
    assert "has 7 outputs, the data 10" in outcome.out + outcome.err
    scored = json.loads(trainctl("eval", "run", "--json").out)
    (tmp_path / "w.safetensors").unlink()
    assert json.loads(trainctl("eval", "run", "--json").out) == scored
    assert trainctl("resume", "run", "epochs=2").code == 0
    refused = trainctl(*words, "name=other")
    assert refused.code == 2
    assert "model.weights=w.safetensors: cannot be read" in refused.err
