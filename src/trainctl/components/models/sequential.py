"""A model written as a list of torch layers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError, did_you_mean
from trainctl.registry import MODELS

# Arguments of layers that follow from the input's shape.
_INFERRED: dict[str, Callable[[tuple[int, ...]], Any]] = {
    "in_features": lambda shape: shape[-1],
    "in_channels": lambda shape: shape[0],
    "num_features": lambda shape: shape[0],
    "num_channels": lambda shape: shape[0],
    "normalized_shape": lambda shape: list(shape),
}
# Arguments of the last layer that follow from the data.
_SIZES = ("out_features", "out_channels")
_EXCLUDED = (
    "Module",
    "ModuleDict",
    "ModuleList",
    "ParameterDict",
    "ParameterList",
    "Sequential",
    "Container",
)


def _layer_classes() -> dict[str, type[nn.Module]]:
    """torch.nn's layers by class name, without containers, losses and lazy layers."""
    return {
        name: member
        for name, member in vars(nn).items()
        if inspect.isclass(member)
        and issubclass(member, nn.Module)
        and name not in _EXCLUDED
        and not name.startswith("Lazy")
        and not issubclass(member, nn.modules.loss._Loss)
    }


@MODELS.register("sequential")
class Sequential(nn.Sequential):
    """A list of torch.nn layers, each a class name, a name with its main argument, or a name with keywords.

        model.layers=[{Conv2d: {out_channels: 8, kernel_size: 3}},ReLU,Flatten,{Linear: 64},ReLU,Linear]

    Sizes that follow from a layer's input (in_features, in_channels, num_features, …) are inferred, and a
    last layer without a size gets the data's output size.

    Args:
        layers: the layers in order; `Linear: 64` means out_features=64, the first argument not inferred.

    Shape: (N, *input_shape) → the last layer's.
    """

    def __init__(self, input_shape: tuple[int, ...], output_size: int, layers: list[Any]) -> None:
        classes = _layer_classes()
        built: list[nn.Module] = []
        # Two samples of zeros infer the sizes; batch normalization rejects one.
        sample = torch.zeros(2, *input_shape)
        for position, item in enumerate(layers):
            where = f"model.layers[{position}]"
            name, given = _read(where, item)
            if name not in classes:
                remedy = did_you_mean(name, classes).rstrip() or "layers have the class names of torch.nn"
                raise ConfigError(f"{where}={name}: torch.nn has no such layer", remedy)
            is_last = position == len(layers) - 1
            layer = _build(
                where, classes[name], given, tuple(sample.shape[1:]), output_size if is_last else None
            )
            sample = _run(where, layer, sample)
            built.append(layer)
        super().__init__(*built)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


def _read(where: str, item: Any) -> tuple[str, Any]:
    """One entry of the list as a layer's name and its arguments."""
    if isinstance(item, str):
        return item, {}
    if isinstance(item, dict) and len(item) == 1:
        (name, given), *_ = item.items()
        return str(name), {} if given is None else given
    raise ConfigError(
        f"{where}={json.dumps(item)}: not a layer", "write Name, Name: value or Name: {argument: value}"
    )


def _build(
    where: str, layer: type[nn.Module], given: Any, shape: tuple[int, ...], output_size: int | None
) -> nn.Module:
    parameters = inspect.signature(layer).parameters
    names = [name for name, item in parameters.items() if item.kind is item.POSITIONAL_OR_KEYWORD]
    if isinstance(given, dict):
        arguments = {str(name): value for name, value in given.items()}
    else:
        free = [name for name in names if name not in _INFERRED]
        if not free:
            raise ConfigError(f"{where}={layer.__name__}: {given}: this layer takes no arguments")
        arguments = {free[0]: given}
    for name in arguments:
        if name not in names:
            takes = f"{layer.__name__} takes{': ' + ', '.join(names) if names else ' no arguments'}"
            raise ConfigError(
                f"{where}.{name}: {layer.__name__} has no argument {name!r}",
                did_you_mean(name, names) + takes,
            )
    for name in names:
        if name in arguments or parameters[name].default is not inspect.Parameter.empty:
            continue
        if name in _INFERRED and not shape:
            raise ConfigError(
                f"{where}={layer.__name__}: its input has no dimension left", "remove a layer before it"
            )
        if name in _INFERRED:
            arguments[name] = _INFERRED[name](shape)
        elif name in _SIZES and output_size is not None:
            arguments[name] = output_size
        else:
            raise ConfigError(
                f"{where}={layer.__name__}: {name} is missing", f"write {layer.__name__}: {{{name}: …}}"
            )
    try:
        return layer(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
        )
    except (TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        # Older versions of torch list all signatures after the first line.
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{where}={layer.__name__}: {reason}", f"given: {arguments}") from error


def _run(where: str, layer: nn.Module, sample: Tensor) -> Tensor:
    layer.eval()
    try:
        with torch.no_grad():
            outputs: Any = layer(sample)
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
        reason = str(error).splitlines()[0]
        shape = tuple(sample.shape[1:])
        raise ConfigError(
            f"{where}={type(layer).__name__} does not fit its input of shape {shape}: {reason}"
        ) from error
    finally:
        layer.train()
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"{where}={type(layer).__name__}: a layer must return one tensor, this one returns several"
        )
    return outputs
