"""The protocol of readers, and the conversion of numbers to the type of the training samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from trainctl.data.arrays import Array
from trainctl.errors import ConfigError

# NumPy has no bfloat16: torch rounds to it.
_READ_AS: Mapping[str, Any] = {
    "bool": np.bool_,
    "bfloat16": np.float32,
    **{name: np.dtype(name) for name in ("float16", "float32", "float64")},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a file.

    Attributes:
        names: the row number or the file name of each sample.
        inputs: the raw samples that could be read, (M, …) in the stored type.
        errors: why the others could not be read, by place in ``names``.
        notes: what was taken otherwise than it stands there, by place in ``names``.
    """

    names: Sequence[int | str]
    inputs: Tensor
    errors: Mapping[int, str] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)

    def cut(self, size: int) -> Iterator[Batch]:
        """The batch in pieces of ``size`` samples, read or not; the last one may be smaller."""
        first = 0
        for start in range(0, len(self.names), size):
            names = self.names[start : start + size]
            errors, notes = (
                {place: each[start + place] for place in range(len(names)) if start + place in each}
                for each in (self.errors, self.notes)
            )
            last = first + len(names) - len(errors)
            yield Batch(names, self.inputs[first:last], errors, notes)
            first = last

    def then(self, other: Batch) -> Batch:
        """The samples of this batch and of the next one."""
        errors, notes = (
            {**mine, **{len(self.names) + place: text for place, text in others.items()}}
            for mine, others in ((self.errors, other.errors), (self.notes, other.notes))
        )
        return Batch([*self.names, *other.names], torch.cat([self.inputs, other.inputs]), errors, notes)


def evenly(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The samples of ``batches``, ``size`` at a time, however a file was cut: the last digits of a
    prediction depend on how many are predicted together."""
    left: Batch | None = None
    for batch in batches:
        whole, left = batch if left is None else left.then(batch), None
        for piece in whole.cut(size):
            if len(piece.names) == size:
                yield piece
            else:
                left = piece
    if left is not None:
        yield left


class Source(Protocol):
    """Samples in a file or a folder.

    Attributes:
        unit: the kind of ``Batch.names``: ``row`` or ``file``.
        total, done: the bytes, samples or files to read, and those that have been read.
        notices: messages to print before the first batch.
        has_notes: whether its batches may have notes.
    """

    unit: str
    has_notes: bool
    total: int
    done: int
    notices: list[str]

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples, ``size`` at a time. Raises ConfigError where the file itself is damaged."""

    def remarks(self) -> list[str]:
        """Messages to print after the last batch."""


def require_readable(dtype: str, what: str) -> None:
    """Raise ConfigError for a type of samples that no reader supports."""
    if dtype not in _READ_AS:
        raise ConfigError(f"{what}: the run was trained on {dtype}, which cannot be read from a file")


def convert(values: Array, dtype: str, *, missing_allowed: bool) -> tuple[Tensor, Array]:
    """``values`` as ``dtype``, and a mask of those that it cannot hold.

    A float is rounded, as for training; an integer is not: 0.5 is no token, and a number that is too large
    would wrap around. NaN is a missing value where ``missing_allowed``.

    Shape: (N, …) of numbers → (N, …) of ``dtype``, (N, …) bool.
    """
    kind = np.dtype(_READ_AS[dtype])
    with np.errstate(over="ignore", invalid="ignore"):  # the mask reports what overflows
        converted = np.array(values, dtype=kind, order="C")
        if kind.kind == "f":
            tensor = torch.from_numpy(converted).to(getattr(torch, dtype))
            refused = torch.isinf(tensor) if missing_allowed else ~torch.isfinite(tensor)
            return tensor, refused.numpy()
        least, most = (0, 1) if kind.kind == "b" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
        bad: Array
        if values.dtype.kind == "f":
            # As floats: most + 1 is a power of two, and so exact where most is not.
            bad = (values != np.trunc(values)) | ~((values >= float(least)) & (values < float(most + 1)))
        elif values.dtype.kind == "b":
            bad = np.zeros(values.shape, dtype=bool)
        else:
            bad = (values < least) | (values > most)
    return torch.from_numpy(converted), bad


def why_bad(value: Any, dtype: str) -> str:
    """Why :func:`convert` marks ``value``, as the end of a message."""
    if np.dtype(_READ_AS[dtype]).kind == "f":
        return f"is not finite in {dtype}"
    if np.isfinite(value) and value != np.trunc(value):
        return f"is not an integer, and the run was trained on {dtype}"
    return f"does not fit into {dtype}, which the run was trained on"
