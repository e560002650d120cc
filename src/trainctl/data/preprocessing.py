"""The preprocessing between a file and the model's input, described so that it can be stored with the run.

Statistics, categories and class names are those of training, and never taken from other data.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainctl.data.inputs import Inputs, stacked, unpacked
from trainctl.data.types import AnySplit, Data, Split, StreamSplit

# By module and name, so that only the run's own module is imported.
_KINDS: Mapping[str, tuple[str, str, frozenset[str]]] = {
    kind: (module, name, frozenset(holds.split()))
    for kind, module, name, holds in (
        ("identity", "torch.nn.modules.linear", "Identity", ""),
        ("standardize", "trainctl.data.types", "Standardize", "factor offset"),
        ("standardize_channels", "trainctl.data.images.published", "StandardizeChannels", "factor offset"),
        ("affine", "trainctl.data.tables.transform", "Affine", "mean std"),
        ("table", "trainctl.data.tables.transform", "TableTransform", "numbers columns codes mean std"),
    )
}


def describe(data: Data) -> dict[str, Any]:
    """Raw samples, how they are read from files, and the transform, as plain JSON values.

    ``raw`` is None for samples of unknown type that are made one by one; ``transform`` is None for one that
    is not trainctl's own: the dataset has to make that again.
    """
    return {
        "raw": describe_raw(data),
        "reading": dict(data.reading),
        "transform": describe_transform(data.transform),
    }


def describe_raw(data: Data) -> dict[str, Any] | None:
    if isinstance(data.train, Split):
        return describe_samples(data.train.inputs)
    if data.reading.get("kind") == "image":
        return {"shape": list(data.input_shape), "dtype": "uint8"}
    return getattr(data.train.load, "raw", None)


def describe_samples(samples: Tensor) -> dict[str, Any]:
    """Shape and type of one of ``samples``, (N, …); of several inputs by their names."""
    if isinstance(samples, Inputs):
        each = {name: describe_samples(part) for name, part in samples.parts.items()}
        return {key: {name: each[name][key] for name in each} for key in ("shape", "dtype")}
    return {"shape": list(samples.shape[1:]), "dtype": str(samples.dtype).removeprefix("torch.")}


def describe_transform(transform: nn.Module) -> dict[str, Any] | None:
    """A transform of trainctl's own as plain JSON values, None for any other; no number is rounded."""
    place = (type(transform).__module__, type(transform).__name__)
    kind = next((kind for kind, known in _KINDS.items() if known[:2] == place), None)
    if kind is None:
        return None
    return {
        "kind": kind,
        "values": {name: value for name, value in vars(transform).items() if isinstance(value, float)},
        "tensors": {
            name: {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "values": _replaced(tensor.tolist(), _is_nan, None),
            }
            for name, tensor in transform.named_buffers()
        },
    }


def make_transform(described: Mapping[str, Any]) -> nn.Module:
    """The inverse of :func:`describe_transform`. Raises ValueError for any other input."""
    try:
        module, name, holds = _KINDS[described["kind"]]
        if {*described["values"], *described["tensors"]} != holds:
            raise ValueError(f"it does not hold {', '.join(sorted(holds))}")
        made: nn.Module = object.__new__(getattr(importlib.import_module(module), name))
        nn.Module.__init__(made)
        for key, value in described["values"].items():
            setattr(made, str(key), float(value))
        for key, entry in described["tensors"].items():
            dtype = {name: getattr(torch, name) for name in ("float32", "float64", "int64")}[entry["dtype"]]
            values = _replaced(entry["values"], lambda value: value is None, math.nan)
            made.register_buffer(key, torch.tensor(values, dtype=dtype))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"no usable transform: {type(error).__name__}: {error}") from error
    return made


def _replaced(values: Any, old: Callable[[Any], bool], new: float | None) -> Any:
    """Nested lists with other values for ``old`` ones: None stands for NaN, which JSON does not have."""
    if isinstance(values, list):
        return [_replaced(value, old, new) for value in values]
    return new if old(values) else values


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def shown(raw: Mapping[str, Any], first: str = "") -> str:
    """The shape and type of raw samples, for people; ``first`` names a dimension before the others."""
    if isinstance(raw["shape"], Mapping):
        parts = ({"shape": raw["shape"][name], "dtype": raw["dtype"][name]} for name in raw["shape"])
        return ", ".join(
            f"{name} {shown(part, first)}" for name, part in zip(raw["shape"], parts, strict=True)
        )
    sizes = [*filter(None, [first]), *map(str, raw["shape"])]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''}) {raw['dtype']}"


def first_samples(split: AnySplit, count: int) -> Tensor:
    """The first raw samples of a split, (at most ``count``, …)."""
    if isinstance(split, Split):
        return split.inputs[:count]
    if isinstance(split, StreamSplit):
        samples: Tensor = stacked(split.load.first[:count])
        return samples
    samples = stacked([split.load(item) for item in list(split.items[:count])])
    return samples if split.changes is None else unpacked(cast(Inputs, samples))[0]
