"""What is seen of the tensors of a step: shape, type, range, and what is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

_MAX_ROWS = 5


@dataclass(frozen=True)
class Values:
    """The values of a tensor, or of several together.

    Attributes:
        shape, dtype: of the first one, such as ``(64, 10)`` and ``float32``.
        low, high: the range of the finite ones; None where there are none.
        not_finite, size: how many are NaN or infinite, and how many there are.
        bad_rows: the rows of the first one that hold such.
    """

    shape: tuple[int, ...] = ()
    dtype: str = ""
    low: float | None = None
    high: float | None = None
    not_finite: int = 0
    size: int = 0
    bad_rows: tuple[int, ...] = ()

    def __add__(self, other: Values) -> Values:
        return replace(
            self,
            size=self.size + other.size,
            low=min((each for each in (self.low, other.low) if each is not None), default=None),
            high=max((each for each in (self.high, other.high) if each is not None), default=None),
            not_finite=self.not_finite + other.not_finite,
        )

    def bad_text(self) -> str:
        """For people: how many are not finite, and where unless that is everywhere."""
        bad, rows = self.not_finite, self.bad_rows
        text = f"{bad:,} of {self.size:,} values {'is' if bad == 1 else 'are'} not finite"
        if len(rows) == (*self.shape, 1)[0]:
            return text
        listed = ", ".join(map(str, rows[:_MAX_ROWS]))
        more = f" and {len(rows) - _MAX_ROWS} more" if len(rows) > _MAX_ROWS else ""
        return f"{text}, in row{'s' * (len(rows) > 1)} {listed}{more}, counted from 0"


def values_of(tensors: Any) -> Values:
    """The values of a tensor, or of all that are in tuples, lists and dictionaries."""
    found = [_of(tensor.detach()) for tensor in tensors_in(tensors)]
    return reduce(add, found) if found else Values()


def _of(tensor: Tensor) -> Values:
    finite = torch.isfinite(tensor)
    not_finite, content, bad_rows = int(tensor.numel() - finite.sum()), tensor, list[int]()
    if not_finite:
        content = tensor[finite]
        whole = finite.reshape(len(tensor) if tensor.dim() else 1, -1).all(1)
        bad_rows = (~whole).nonzero().flatten().tolist()
    if content.is_complex():
        content = content.abs()
    low, high = (float(each) for each in content.aminmax()) if content.numel() else (None, None)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Values(tuple(tensor.shape), dtype, low, high, not_finite, tensor.numel(), tuple(bad_rows))


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dictionaries of them."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping | Sequence) and not isinstance(values, str):
        for each in values.values() if isinstance(values, Mapping) else values:
            yield from tensors_in(each)
