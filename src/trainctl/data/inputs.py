"""Samples of several inputs: a batch of them is cut, moved and copied like one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

Shape = tuple[int, ...] | dict[str, tuple[int, ...]]
"""Of a sample: that of its tensor, or of each input by its name."""


class Inputs:
    """Several tensors of the same samples, by name; the names of positions are 0, 1 …

    The methods below, indexing and torch's functions work on each tensor. ``spread`` gives them to a model.
    """

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        self.parts = dict(parts)

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, index: Any) -> Inputs:
        return Inputs({name: part[index] for name, part in self.parts.items()})

    def __setitem__(self, index: Any, values: Inputs) -> None:
        for name, part in self.parts.items():
            part[index] = values.parts[name]

    @property
    def device(self) -> torch.device:
        return self._first.device

    def to(self, *args: Any, **settings: Any) -> Inputs:
        return self._each(lambda part: part.to(*args, **settings))

    def cpu(self) -> Inputs:
        return self._each(Tensor.cpu)

    def clone(self) -> Inputs:
        return self._each(Tensor.clone)

    def detach(self) -> Inputs:
        return self._each(Tensor.detach)

    def contiguous(self) -> Inputs:
        return self._each(Tensor.contiguous)

    def pin_memory(self) -> Inputs:
        return self._each(Tensor.pin_memory)

    def index_select(self, dim: int, index: Tensor) -> Inputs:
        return self._each(lambda part: part.index_select(dim, index))

    def record_stream(self, stream: Any) -> None:
        for part in self.parts.values():
            part.record_stream(stream)

    @property
    def _first(self) -> Tensor:
        return next(iter(self.parts.values()))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return Inputs({name: change(part) for name, part in self.parts.items()})

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """``torch.split``, ``cat`` … of each tensor."""
        names = next(_found(args)).parts
        results = {name: function(*_part(args, name), **_part(kwargs or {}, name)) for name in names}
        if all(isinstance(each, Tensor) for each in results.values()):
            return cls(results)
        return [
            cls(dict(zip(results, pieces, strict=True))) for pieces in zip(*results.values(), strict=True)
        ]


def _found(value: Any) -> Iterator[Inputs]:
    if isinstance(value, Inputs):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _found(each)


def _part(value: Any, name: str) -> Any:
    """``value`` with one tensor in the place of each Inputs in it."""
    if isinstance(value, Inputs):
        return value.parts[name]
    if isinstance(value, dict):
        return {key: _part(each, name) for key, each in value.items()}
    return type(value)(_part(each, name) for each in value) if isinstance(value, tuple | list) else value


def spread(model: nn.Module, args: Any, kwargs: Any) -> Any:
    """A forward pre-hook: the tensors of an Inputs as arguments of ``forward``, by position or by name."""
    if len(args) != 1 or not isinstance(args[0], Inputs):
        return None
    parts = args[0].parts
    return (tuple(parts.values()), {}) if are_positions(parts) else ((), parts)


def are_positions(names: Mapping[str, Any]) -> bool:
    return all(name.isdigit() for name in names)


def stacked(samples: Sequence[Any]) -> Any:
    """Samples as a batch, (N, …); in a worker process it is made in shared memory."""
    if isinstance(samples[0], Inputs):
        names = samples[0].parts
        return Inputs({name: default_collate([each.parts[name] for each in samples]) for name in names})
    return default_collate(list(samples))


_TARGET, _INPUT = "target", "input"


def packed(inputs: Any, target: Tensor) -> Inputs:
    """A sample, or a batch, with its target."""
    named = inputs.parts if isinstance(inputs, Inputs) else {"": inputs}
    return Inputs({_TARGET: target, **{f"{_INPUT}.{name}": part for name, part in named.items()}})


def unpacked(pack: Inputs) -> tuple[Any, Tensor]:
    """The inverse of :func:`packed`."""
    named = {name.removeprefix(f"{_INPUT}."): part for name, part in pack.parts.items() if name != _TARGET}
    return named[""] if list(named) == [""] else Inputs(named), pack.parts[_TARGET]


def sample_shape(batch: Any) -> Shape:
    """The shape of one sample of a batch."""
    if isinstance(batch, Inputs):
        return {name: tuple(part.shape[1:]) for name, part in batch.parts.items()}
    return tuple(batch.shape[1:])


def parts_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch."""
    return list(batch.parts.values()) if isinstance(batch, Inputs) else [batch]


def plain_shape(shape: Shape) -> Any:
    """A shape as JSON values."""
    return {name: list(each) for name, each in shape.items()} if isinstance(shape, dict) else list(shape)


def made_shape(plain: Any) -> Shape:
    """The inverse of :func:`plain_shape`."""
    return {name: tuple(each) for name, each in plain.items()} if isinstance(plain, dict) else tuple(plain)


def count_numbers(shape: Any) -> int:
    """The numbers of one sample of a shape, as JSON values or not."""
    if isinstance(shape, Mapping):
        return sum(map(count_numbers, shape.values()))
    return math.prod(shape)


def shown_shape(shape: Shape) -> str:
    """The shape of a batch of such samples, for messages."""
    if isinstance(shape, dict):
        return ", ".join(f"{name} {shown_shape(each)}" for name, each in shape.items())
    return f"(N, {', '.join(map(str, shape))})"


class OfInputs(nn.Module):
    """A transform for each tensor of an Inputs, by its name; or one for all, of a dictionary of tensors."""

    def __init__(self, transforms: nn.Module | Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.whole = transforms if isinstance(transforms, nn.Module) else None
        named = {} if isinstance(transforms, nn.Module) else transforms
        self.names, self.each = list(named), nn.ModuleList(named.values())  # any name, "a.b", too

    def forward(self, inputs: Inputs) -> Inputs:
        if self.whole is not None:
            return Inputs(self.whole(dict(inputs.parts)))
        pairs = zip(self.names, self.each, strict=True)
        return Inputs({name: transform(inputs.parts[name]) for name, transform in pairs})
