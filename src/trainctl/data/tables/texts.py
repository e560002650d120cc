"""The texts of a column's cells, each different one stored once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

Codes = np.ndarray[Any, Any]
_Parts = tuple[list[str | None], Codes]


class Texts(Sequence[str | None]):
    """The cells of a column; None is a missing value.

    Args:
        length: the number of cells.
        load: makes ``unique``, different texts (None may occur more than once) in the order of their first
            cells, and ``codes``, the position of each cell's text among them. Called when they are needed.
    """

    def __init__(self, length: int, load: Callable[[], _Parts]) -> None:
        self._length, self._load = length, load

    @classmethod
    def of(cls, cells: Iterable[str | None]) -> Texts:
        position: dict[str | None, int] = {}
        codes = np.array([position.setdefault(cell, len(position)) for cell in cells], np.int32)
        return cls.coded(list(position), codes)

    @classmethod
    def coded(cls, unique: list[str | None], codes: Codes) -> Texts:
        return cls(len(codes), lambda: (unique, codes))

    @cached_property
    def _parts(self) -> _Parts:
        return self._load()

    @property
    def unique(self) -> list[str | None]:
        return self._parts[0]

    @property
    def codes(self) -> Codes:
        return self._parts[1]

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str | None]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str | None] | None:
        if isinstance(index, slice):
            return Texts.coded(self.unique, self.codes[index])
        return self.unique[int(self.codes[index])]

    def __iter__(self) -> Iterator[str | None]:
        return map(self.unique.__getitem__, self.codes.tolist())

    def map(self, function: Callable[[str | None], str | None]) -> Texts:
        """Other texts for these; called once for each different one."""
        return Texts.coded([function(text) for text in self.unique], self.codes)

    def take(self, rows: Tensor) -> Texts:
        """The cells of these rows, (M,) int64."""
        return Texts(len(rows), lambda: (self.unique, self.codes[rows.numpy()]))

    def counts(self) -> dict[str, int]:
        """How often each text occurs, in the order of ``unique``; without missing values and absent texts."""
        counted = np.bincount(self.codes, minlength=len(self.unique)).tolist()
        found: dict[str, int] = {}
        for text, count in zip(self.unique, counted, strict=True):
            if text is not None and count:
                found[text] = found.get(text, 0) + count
        return found

    def values(self, numbers: Sequence[float], dtype: torch.dtype = torch.float64) -> Tensor:
        """(N,): the number of each cell's text; ``numbers`` are those of ``unique``."""
        return torch.tensor(numbers, dtype=dtype)[torch.from_numpy(self.codes.astype(np.int64))]

    def missing(self) -> Tensor:
        """(N,) bool: the cells without a value."""
        return self.values([text is None for text in self.unique], torch.bool)

    def rows_of(self, chosen: Sequence[bool]) -> list[int]:
        """The rows, in order, with the texts of ``unique`` that are ``chosen``."""
        if not any(chosen):
            return []
        found: list[int] = np.flatnonzero(np.array(chosen)[self.codes]).tolist()
        return found
