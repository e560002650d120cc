"""The models for images."""

from __future__ import annotations

import pytest
import torch

from trainctl.config.settings import Component
from trainctl.errors import ConfigError
from trainctl.training.construct import build_model


def model(name: str, shape: tuple[int, ...], outputs: int = 7, **arguments: object) -> torch.nn.Module:
    return build_model(Component("model", name, dict(arguments)), shape, outputs)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 12, 12), (4, 20, 31)])
def test_lenet_takes_any_image_that_is_large_enough(shape: tuple[int, ...]) -> None:
    assert model("lenet", shape)(torch.randn(2, *shape)).shape == (2, 7)


def test_lenet_on_mnist_has_the_published_layers() -> None:
    sizes = [tuple(item.shape) for item in model("lenet", (1, 28, 28), 10).parameters() if item.dim() > 1]
    assert sizes == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]


@pytest.mark.parametrize("shape", [(64,), (1, 8, 8)])
def test_lenet_refuses_what_it_cannot_take(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="at least 12×12"):
        model("lenet", shape)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"widths": [5]},
        {"widths": [8, 16, 16, 16, 16]},
        {"kernel": 5, "normalization": "none"},
        {"normalization": "group", "widths": [6, 7]},
        {"pooling": "none"},
        {"pooling": "average", "dropout": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 9)])
def test_cnn_takes_any_image(shape: tuple[int, ...], arguments: dict[str, object]) -> None:
    assert model("cnn", shape, **arguments)(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((20,), {}, "takes images"),
        ((1, 8, 8), {"kernel": 4}, "must be odd"),
        ((1, 8, 8), {"widths": []}, "at least one"),
    ],
)
def test_cnn_refuses_what_it_cannot_be(
    shape: tuple[int, ...], arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        model("cnn", shape, **arguments)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_models_are_adapted_to_channels_and_classes(arch: str, channels: int) -> None:
    built = model("torchvision", (channels, 64, 64), 5, arch=arch).eval()
    assert built(torch.randn(2, channels, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_torchvision_models_have_one_output_while_training(arch: str) -> None:
    built = model("torchvision", (3, 96, 96), 5, arch=arch).train()
    assert isinstance(built(torch.randn(2, 3, 96, 96)), torch.Tensor)


def test_torchvision_explains_what_is_not_there(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="no such model") as error:
        model("torchvision", (3, 64, 64), arch="resnet81")
    assert "did you mean model.arch=resnet" in error.value.problems[0].remedy
    with pytest.raises(ConfigError, match="no such weights"):
        model("torchvision", (3, 64, 64), weights="IMAGENET")
    with pytest.raises(ConfigError, match="not found") as error:
        model("torchvision", (3, 64, 64), weights="DEFAULT")
    assert "model.download=true" in error.value.problems[0].remedy
    with pytest.raises(ConfigError, match="takes images"):
        model("torchvision", (20,))


def test_pretrained_weights_are_used_where_they_fit(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = models.get_model_weights("squeezenet1_1")["DEFAULT"]
    trained = models.get_model("squeezenet1_1", weights=None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    # The file that torchvision would fetch; its name carries the hash, which is compared only on download.
    torch.save(trained.state_dict(), folder / weights.url.rpartition("/")[2])
    built = model("torchvision", (1, 64, 64), 4, arch="squeezenet1_1", weights="DEFAULT")
    stored = trained.state_dict()
    first = next(name for name in stored if name.endswith("weight"))
    assert built(torch.randn(2, 1, 64, 64)).shape == (2, 4)
    mean = stored[first].mean(1, keepdim=True) * stored[first].shape[1]
    assert torch.allclose(built.state_dict()[first], mean)
    same = "features.3.squeeze.weight"
    assert torch.equal(built.state_dict()[same], stored[same])


@pytest.mark.parametrize(
    "arch", ["lraspp_mobilenet_v3_large", pytest.param("fcn_resnet50", marks=pytest.mark.slow)]
)
def test_torchvision_models_of_segmentation_give_each_pixel_its_classes(
    arch: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    built = model("torchvision", (1, 40, 33), 5, arch=arch)
    for mode in (True, False):
        assert built.train(mode)(torch.randn(2, 1, 40, 33)).shape == (2, 5, 40, 33)
    # Pretrained on other classes: all but the last layers are taken.
    weights = models.get_model_weights(arch)["DEFAULT"]
    trained = models.get_model(arch, weights=None, weights_backbone=None, aux_loss=arch == "fcn_resnet50")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(trained.state_dict(), folder / weights.url.rpartition("/")[2])
    state = model("torchvision", (3, 40, 33), 5, arch=arch, weights="DEFAULT").state_dict()
    stored = {f"model.{name}": each for name, each in trained.state_dict().items()}
    new = {name for name, each in state.items() if not torch.equal(each, stored[name])}
    assert 0 < len(new) <= 4
    assert all(len(state[name]) == 5 for name in new)
