"""Pretrained weights of a local file, for models that others define."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trainctl.errors import ConfigError

_PICKLES = (".pt", ".pth")


def is_file(weights: str) -> bool:
    """Whether ``model.weights`` names a file, not weights that the library knows."""
    return "/" in weights or Path(weights).suffix in (".safetensors", *_PICKLES)


def read_weights(weights: str) -> dict[str, Tensor]:
    """The tensors of a file by name: of a .safetensors, or of a .pt or .pth that holds nothing but tensors.

    A checkpoint may have them under ``state_dict`` or ``model``; a prefix ``module.`` or ``model.`` of all
    names is left out. Raises ConfigError for what cannot be read, and for a pickle of anything else.
    """
    path = Path(weights).expanduser()
    if path.suffix not in (".safetensors", *_PICKLES):
        raise ConfigError(
            f"model.weights={weights}: must be a file that ends in .safetensors, .pt or .pth",
            "other files of weights may be pickles that run code",
        )
    try:
        # weights_only: no code of the file runs.
        found: Any = (
            torch.load(path, map_location="cpu", weights_only=True)
            if path.suffix in _PICKLES
            else load_file(path)
        )
    except Exception as error:  # damaged files raise errors of many kinds
        reason = str(error).strip().partition("\n")[0][:200]
        raise ConfigError(
            f"model.weights={weights}: cannot be read: {reason}", "give another file, one of tensors alone"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(each, Tensor) for each in found.values()):
        raise ConfigError(f"model.weights={weights}: holds no tensors by name", "save a model's state_dict()")
    for prefix in ("module.", "model."):
        if found and all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): each for name, each in found.items()}
    return dict(found)


def with_weights(
    weights: str, stored: Mapping[str, Tensor], make: Callable[[int], nn.Module], classes: int, outputs: int
) -> nn.Module:
    """The model that ``make`` makes for ``outputs`` classes, with the weights of a file for ``classes``.

    Where the two differ, what depends on them is left as it was made, and the model's ``notices`` say so.
    Raises ConfigError where anything else differs.
    """
    whole = make(classes)
    try:
        whole.load_state_dict(stored)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(": ")[2] or str(error)
        raise ConfigError(
            f"model.weights={weights}: does not fit: {reason[:300]}", "choose its model: model.arch=NAME"
        ) from error
    if classes == outputs:
        return whole
    model = make(outputs)
    own, given = model.state_dict(), whole.state_dict()
    new = [name for name, each in own.items() if each.shape != given[name].shape]
    model.load_state_dict({**given, **{name: own[name] for name in new}})
    model.notices = [  # type: ignore[assignment]
        f"model.weights={weights} has {classes} outputs, the data {outputs}: {', '.join(new)} begin anew"
    ]
    return model
