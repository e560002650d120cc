"""Columns of a table: their kinds, and the values of their cells."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Cells without a value, in lower case."""
_BAD_SHARE = 0.1
"""A column is numeric if at most this share of its cells are not numbers; those are bad cells."""
_NO_NUMBER = "is not a number"
_LARGEST = torch.finfo(torch.float32).max
_FLAGS = {"false": 0.0, "true": 1.0}


@dataclass(frozen=True)
class Column:
    """One column, of a table or of some rows of it.

    Attributes:
        number: its position in the file, from 1.
        kind: ``flag`` is a column of true and false: a number as an input, two classes as a target.
        values: (N,) float64, NaN for a missing value; empty for ``text``.
        texts: the cells as text, None for a missing value; None if the file stores numbers.
        bad: the problem of each cell that does not fit the kind, by row.
        comma: its numbers have decimal commas.
        unusable: the type of a column that is neither numbers nor text.
    """

    name: str
    number: int
    kind: Literal["number", "flag", "text"]
    values: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    texts: Sequence[str | None] | None = None
    bad: dict[int, str] = field(default_factory=dict)
    comma: bool = False
    unusable: str = ""

    @property
    def place(self) -> str:
        """The column in messages."""
        return f"column {self.number}" + ("" if self.name == str(self.number) else f" ({self.name})")

    def missing(self) -> Tensor:
        """(N,) bool: the cells without a value; a bad cell is not missing."""
        if self.kind == "text":
            return torch.tensor([text is None for text in self.texts or ()], dtype=torch.bool)
        absent = self.values.isnan()
        absent[list(self.bad)] = False
        return absent

    def keep(self, rows: Tensor) -> Column:
        """The column with only these rows ((M,) int64), none of which has a bad cell."""
        values = self.values[rows] if len(self.values) else self.values
        texts = self.texts if self.kind != "number" else None
        if texts is not None:
            texts = [texts[row] for row in rows.tolist()]
        return replace(self, values=values, texts=texts, bad={})


def read_column(name: str, number: int, cells: Sequence[str], *, commas: bool) -> Column:
    """A column of text cells, of the kind that fits them.

    Args:
        commas: numbers may have decimal commas (if the delimiter is another character).
    """
    texts = [present(cell) for cell in cells]
    given = [text for text in texts if text is not None]
    if given and all(text.lower() in _FLAGS for text in given):
        return as_kind(Column(name, number, "flag", texts=texts))
    for comma in (False, True) if commas else (False,):
        column = as_kind(Column(name, number, "number", texts=texts, comma=comma))
        if sum(reason == _NO_NUMBER for reason in column.bad.values()) <= _BAD_SHARE * len(given):
            return column
    return Column(name, number, "text", texts=texts)


def present(cell: str) -> str | None:
    """The cell, None if it stands for a missing value."""
    return None if cell.lower() in MISSING else cell


def as_kind(column: Column) -> Column:
    """The column with ``values`` and ``bad`` read from its texts by its kind and ``comma``."""
    texts = column.texts
    if column.kind == "text" or texts is None:
        return column
    values = torch.from_numpy(np.array(_numbers(texts, column.kind == "flag", column.comma), np.float64))
    bad = {}
    for row in torch.nonzero(~(values.abs() <= _LARGEST)).flatten().tolist():
        value, text = float(values[row]), texts[row]
        if text is None:
            continue
        if column.kind == "flag":
            bad[row] = "is not true or false"
        elif math.isnan(value):
            bad[row] = _NO_NUMBER
        else:
            bad[row] = "is not finite" if math.isinf(value) else "is too large for float32"
    return replace(column, values=values, bad=bad)


def number_column(name: str, number: int, values: Tensor) -> Column:
    """A column stored as numbers ((N,) float64); infinity is a bad cell."""
    beyond = torch.nonzero(values.abs() > _LARGEST).flatten().tolist()
    return Column(name, number, "number", values, bad=dict.fromkeys(beyond, "is not finite in float32"))


def _numbers(texts: Sequence[str | None], flag: bool, comma: bool) -> list[float]:
    """The value of each cell, NaN where there is none."""
    if flag:
        return [_FLAGS.get((text or "").lower(), math.nan) for text in texts]
    if not comma and not any("_" in text for text in texts if text):
        with contextlib.suppress(ValueError):  # all at once, which is faster
            return [math.nan if text is None else float(text) for text in texts]
    return [math.nan if text is None else _number(text, comma) for text in texts]


def _number(text: str, comma: bool) -> float:
    if comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    try:
        # float() accepts 1_000, which is not a number in a table.
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def quoted(text: str) -> str:
    """The text of a cell in messages, cut when it is long."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
