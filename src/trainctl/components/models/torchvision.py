"""The models of torchvision for classification and segmentation."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.components.models._weights import is_file, read_weights, with_weights
from trainctl.errors import ConfigError, did_you_mean
from trainctl.registry import MODELS


@MODELS.register("torchvision")
def torchvision(
    input_shape: tuple[int, ...],
    output_size: int,
    arch: str = "resnet18",
    weights: str | None = None,
    download: bool = False,
) -> nn.Module:
    """A model of torchvision by its name, for classes or segmentation, with the data's inputs and outputs.

    The first convolution takes the data's channels (pretrained kernels are averaged and repeated), the last
    layer gives the data's classes and is always new. See torchvision.models. A segmentation model is trained
    without its auxiliary loss, and takes no pretrained backbone alone.

    Args:
        arch: the model's name in torchvision, such as resnet18, mobilenet_v3_small or vit_b_16; for
            segmentation lraspp_mobilenet_v3_large, fcn_resnet50 or deeplabv3_resnet50.
        weights: pretrained weights by name, such as DEFAULT or IMAGENET1K_V1, or a file of this model's,
            FILE.safetensors, .pt or .pth; null starts from scratch. Of a file with as many classes as the
            data the last layer is taken, too.
        download: download the weights if they are not in torch's hub directory.

    Shape: (N, channels, height, width) → (N, output_size), of a segmentation model (N, output_size, height,
    width).
    """
    from torchvision import models

    if len(input_shape) != 3:
        raise ConfigError(
            f"model=torchvision: takes images (channels, height, width), not shape {tuple(input_shape)}",
            "use model=mlp",
        )
    segmentation = models.list_models(module=models.segmentation)
    names = [*models.list_models(module=models), *segmentation]
    if arch not in names:
        remedy = did_you_mean(arch, names, "model.arch=")
        raise ConfigError(
            f"model.arch={arch}: torchvision has no such model", f"{remedy}it has {len(names)} others"
        )
    if weights is not None and is_file(weights):
        return _from_file(models, arch, input_shape[0], output_size, weights, arch in segmentation)
    if arch in segmentation:
        return _segmentation(models, arch, input_shape[0], output_size, weights, download)
    arguments = _single_output(models, arch)
    if weights is None:
        model = models.get_model(arch, weights=None, num_classes=output_size, **arguments)
    else:
        model = models.get_model(arch, weights=None, **arguments)
        model.load_state_dict(_pretrained(models, arch, weights, download), strict=False)
        _replace_last(model, output_size)
    _adapt_channels(model, input_shape[0])
    return model  # type: ignore[no-any-return]


def _single_output(models: Any, arch: str) -> dict[str, Any]:
    """The arguments that keep a model of classes to one output."""
    builder = models.get_model_builder(arch)
    arguments: dict[str, Any] = {}
    if "aux_logits" in inspect.signature(_config_of(builder)).parameters:
        # The loop takes one output, these models have two in training. Their init_weights=True draws every
        # layer from scipy's truncated normal, which takes a minute.
        arguments |= {"aux_logits": False, "init_weights": False}
    return arguments


def _from_file(
    models: Any, arch: str, channels: int, output_size: int, weights: str, pixels: bool
) -> nn.Module:
    arguments = {"weights_backbone": None} if pixels else _single_output(models, arch)
    stored = {
        name: each for name, each in read_weights(weights).items() if not name.lower().startswith("aux")
    }

    def make(outputs: int) -> nn.Module:
        made: nn.Module = models.get_model(arch, weights=None, num_classes=outputs, **arguments)
        if (kernel := stored.get(f"{first}.weight")) is not None and kernel.dim() == 4:
            _adapt_channels(made, kernel.shape[1])
        return made

    plain = models.get_model(arch, weights=None, **arguments)
    first, _ = _modules(plain, (nn.Conv2d,))[0]
    last, layer = _modules(plain, (nn.Linear, nn.Conv2d))[-1]
    rows: Any = stored.get(f"{last}.weight", layer.weight)
    model = with_weights(weights, stored, make, len(rows), output_size)
    _adapt_channels(model, channels)
    if not pixels:
        return model
    whole = _Pixels(model)
    whole.notices = getattr(model, "notices", [])  # type: ignore[assignment]
    return whole


class _Pixels(nn.Module):
    """A segmentation model of torchvision, with its main output alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs)["out"]
        return outputs


def _segmentation(
    models: Any, arch: str, channels: int, output_size: int, weights: str | None, download: bool
) -> nn.Module:
    model = models.get_model(arch, weights=None, weights_backbone=None, num_classes=output_size)
    if weights is not None:
        # Of another number of classes, the last layers stay new.
        own, stored = model.state_dict(), _pretrained(models, arch, weights, download)
        fitting = {
            name: each
            for name, each in stored.items()
            if name in own and own[name].shape == each.shape and not name.startswith("aux_classifier")
        }
        model.load_state_dict({**own, **fitting})
    _adapt_channels(model, channels)
    return _Pixels(model)


def _config_of(builder: Any) -> Any:
    module = inspect.getmodule(builder)
    return getattr(
        module, {"googlenet": "GoogLeNet", "inception_v3": "Inception3"}.get(builder.__name__, ""), object
    )


def _pretrained(models: Any, arch: str, weights: str, download: bool) -> Any:
    available = models.get_model_weights(arch)
    names = [*available.__members__]
    if weights not in names:
        raise ConfigError(
            f"model.weights={weights}: {arch} has no such weights", f"there are: {', '.join(names)}"
        )
    chosen = available[weights]
    stored = Path(torch.hub.get_dir()) / "checkpoints" / Path(chosen.url).name
    if not stored.is_file() and not download:
        raise ConfigError(
            f"model.weights={weights}: {stored} not found",
            "download it with model.download=true, or put the file there",
        )
    try:
        return chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"model.weights={weights}: {str(error).splitlines()[0]}") from error


def _modules(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _replace_last(model: nn.Module, output_size: int) -> None:
    name, last = _modules(model, (nn.Linear, nn.Conv2d))[-1]
    new: nn.Module
    if isinstance(last, nn.Linear):
        new = nn.Linear(last.in_features, output_size)
    else:
        assert isinstance(last, nn.Conv2d)
        new = nn.Conv2d(last.in_channels, output_size, kernel_size=1)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _adapt_channels(model: nn.Module, channels: int) -> None:
    """Average the first kernels over their channels, and repeat them for the data's channels."""
    _, first = _modules(model, (nn.Conv2d,))[0]
    assert isinstance(first, nn.Conv2d)
    if first.in_channels == channels:
        return
    weight = first.weight.detach().mean(1, keepdim=True) * first.in_channels / channels
    first.weight = nn.Parameter(weight.repeat(1, channels, 1, 1))
    first.in_channels = channels
