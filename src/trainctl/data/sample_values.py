"""What a dataset gives as a sample's input or target: tensors, arrays, images and numbers, as tensors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl.data.inputs import Inputs
from trainctl.data.preprocessing import describe_samples, shown
from trainctl.errors import ConfigError

_TYPES = "give a dense tensor, an array of NumPy, a number, or an image of PIL"
_SHOWN = 8


def as_tensor(where: str, value: Any) -> Tensor:
    """A value of a sample as a tensor on the CPU. Raises ConfigError for what cannot be one."""
    image = getattr(sys.modules.get("PIL.Image"), "Image", ())
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested:
        return value.detach().cpu()
    if isinstance(value, image):
        if value.mode not in ("RGB", "L"):
            raise ConfigError(
                f"{where} is an image of mode {value.mode}", "image.convert('RGB') makes a usable one"
            )
        pixels = torch.from_numpy(numpy.array(value))
        return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    if isinstance(value, bool | int | float):
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    if isinstance(value, numpy.ndarray | numpy.generic):
        try:
            return torch.from_numpy(numpy.array(value))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where} is {described(value)}, which no tensor can hold: {error}") from error
    raise ConfigError(f"{where} is {described(value)}", _TYPES)


def as_inputs(where: str, value: Any) -> Any:
    """The input of a sample as a tensor, or several of them as an Inputs. Raises as :func:`as_tensor`."""
    if isinstance(value, Mapping | tuple) and value:
        named = value.items() if isinstance(value, Mapping) else enumerate(value)
        return Inputs({str(name): _input(f"{where} {name}", each) for name, each in named})
    return _input(where, value)


def _input(where: str, value: Any) -> Tensor:
    tensor = as_tensor(where, value)
    if not tensor.dim():
        raise ConfigError(f"{where} is one number", "give it the shape (1,)")
    return tensor


def described(value: Any) -> str:
    """A value in messages: what it is, not what is in it."""
    if value is None:
        return "None"
    if isinstance(value, Tensor | numpy.ndarray):
        return f"a {type(value).__name__} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        kinds = ", ".join(type(each).__name__ for each in value[:_SHOWN])
        return f"a {type(value).__name__} of {len(value)} ({kinds}{', …' if len(value) > _SHOWN else ''})"
    return f"a {type(value).__name__}"


def are_labels(targets: Tensor) -> bool:
    """Whether targets (N, …) are several of 0 and 1 a sample, and not one class of which each has one."""
    several = targets.dim() == 2 and targets.shape[1] > 1 and len(targets) > 0
    return several and bool(((targets == 0) | (targets == 1)).all()) and bool((targets.sum(1) != 1).any())


def same(one: Tensor, other: Tensor) -> bool:
    """Whether both have the same type, shape and values; NaN is NaN."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def raised_in(error: BaseException) -> str:
    """The remedy of an error in a dataset's own code: where it was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    return f"raised in {traceback.tb_frame.f_code.co_filename} line {traceback.tb_lineno}"


def form(inputs: Any, target: Tensor) -> Any:
    """What must be equal in all samples; cheap, because each sample is compared."""
    named = inputs.parts if isinstance(inputs, Inputs) else {"": inputs}
    return {name: (part.shape, part.dtype) for name, part in named.items()}, target.shape, target.dtype


def shown_pair(*values: Any) -> str:
    """Shapes and types of an input and its target, for messages."""
    return " with target ".join(shown(describe_samples(value[None])) for value in values)
