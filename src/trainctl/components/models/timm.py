"""The models of PyTorch Image Models."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from trainctl.components.models._weights import read_weights
from trainctl.errors import ConfigError, did_you_mean
from trainctl.registry import MODELS, Probability


@MODELS.register("timm")
def timm(
    input_shape: tuple[int, ...],
    output_size: int,
    arch: str = "resnet18",
    weights: str | None = None,
    download: bool = False,
    dropout: Probability = 0.0,
    drop_path: Probability = 0.0,
) -> nn.Module:
    """A classification model of timm by its name, with as many inputs and outputs as the data has.

    The first layer takes the data's channels (pretrained kernels are added up or repeated), a transformer is
    made for the data's height and width, the last layer of default weights is always new. Needs the extra
    ``timm``. Wightman, PyTorch Image Models (2019).

    Args:
        arch: the model's name in timm, such as resnet18 or vit_tiny_patch16_224; a tag behind a point chooses
            the weights that are downloaded.
        weights: default, those that timm has for the model, or a file of its weights, FILE.safetensors, .pt
            or .pth; null starts from scratch. Of a file with as many classes as the data the last layer is
            taken, too.
        download: download the default weights if they are not in the cache of the Hugging Face Hub.
        dropout: before the last layer.
        drop_path: the probability of leaving out a residual branch, where the model has such.

    Shape: (N, channels, height, width) → (N, output_size).
    """
    if importlib.util.find_spec("timm") is None:
        raise ConfigError("model=timm: timm is not installed", "install it: pip install 'trainctl[timm]'")
    if len(input_shape) != 3:
        raise ConfigError(
            f"model=timm: takes images (channels, height, width), not shape {tuple(input_shape)}",
            "use model=mlp",
        )
    import timm as library
    from timm.models import group_parameters

    names = library.list_models()
    if arch.partition(".")[0] not in names:
        remedy = did_you_mean(arch, names, "model.arch=")
        raise ConfigError(f"model.arch={arch}: timm has no such model", f"{remedy}it has {len(names)} others")
    config = library.get_pretrained_cfg(arch, allow_unregistered=True)
    settings: dict[str, Any] = {"drop_rate": dropout}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    if getattr(config, "fixed_input_size", False):
        settings["img_size"] = tuple(input_shape[1:])
    classes, pretrained = _pretrained(weights, download, config, output_size)
    try:
        model: Any = library.create_model(
            arch, in_chans=input_shape[0], num_classes=classes, **settings, **pretrained
        )
        if classes != output_size:
            model.reset_classifier(output_size)
            differ = f"{classes} outputs, the data {output_size}"
            model.notices = [f"model.weights={weights} has {differ}: the last layer begins anew"]
    except Exception as error:  # timm raises errors of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        chosen = f"model.arch={arch}" + (f" model.weights={weights}" if weights else "")
        raise ConfigError(
            f"{chosen}: timm cannot make it: {reason}",
            "change model.KEY=…",
        ) from error
    # The number of each parameter's layer, for optim.layer_decay.
    model.parameter_layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    built: nn.Module = model
    return built


def _pretrained(
    weights: str | None, download: bool, config: Any, output_size: int
) -> tuple[int, dict[str, Any]]:
    """The number of classes to make a model for, and the arguments that give it its weights.

    Raises ConfigError where they cannot be read.
    """
    if weights is None:
        return output_size, {"pretrained": False}
    if weights == "default":
        if not download:
            raise ConfigError(
                "model.weights=default: not downloaded without being asked to",
                "allow it with model.download=true, or give a file: model.weights=FILE.safetensors",
            )
        return output_size, {"pretrained": True}
    stored = read_weights(weights)
    last = getattr(config, "classifier", None)
    last = last[0] if isinstance(last, tuple) else last
    # Made for the classes of the file, so that timm compares every name and shape.
    classes = len(stored[f"{last}.weight"]) if f"{last}.weight" in stored else 0
    return classes, {
        "pretrained": True,
        "pretrained_cfg_overlay": {"state_dict": stored, "num_classes": classes},
    }
