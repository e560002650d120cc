"""The models of PyTorch Image Models."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

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
    made for the data's height and width, the last layer is always new. Needs the extra ``timm``. Wightman,
    PyTorch Image Models (2019).

    Args:
        arch: the model's name in timm, such as resnet18 or vit_tiny_patch16_224; a tag behind a point chooses
            the weights that are downloaded.
        weights: default, those that timm has for the model, or a file of its weights, FILE.safetensors; null
            starts from scratch.
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
    settings: dict[str, Any] = {"drop_rate": dropout}
    if drop_path:
        settings["drop_path_rate"] = drop_path
    if getattr(library.get_pretrained_cfg(arch, allow_unregistered=True), "fixed_input_size", False):
        settings["img_size"] = tuple(input_shape[1:])
    try:
        model: Any = library.create_model(
            arch,
            in_chans=input_shape[0],
            num_classes=output_size,
            **settings,
            **_pretrained(weights, download),
        )
    except ConfigError:
        raise
    except Exception as error:  # timm raises errors of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(
            f"model.arch={arch}: timm cannot make it: {reason}", "change model.KEY=…"
        ) from error
    # The number of each parameter's layer, for optim.layer_decay.
    model.parameter_layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    built: nn.Module = model
    return built


def _pretrained(weights: str | None, download: bool) -> dict[str, Any]:
    """The arguments that give a model its weights. Raises ConfigError where they cannot be read."""
    if weights is None:
        return {"pretrained": False}
    if weights == "default":
        if not download:
            raise ConfigError(
                "model.weights=default: not downloaded without being asked to",
                "allow it with model.download=true, or give a file: model.weights=FILE.safetensors",
            )
        return {"pretrained": True}
    path = Path(weights).expanduser()
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"model.weights={weights}: must be default or a file that ends in .safetensors",
            "other files of weights are pickles, which can run code",
        )
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"model.weights={weights}: cannot be read: {error}", "give another file") from error
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": stored}}
