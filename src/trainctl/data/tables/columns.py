"""Columns of a table: their kinds, and the values of their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""Cells without a value, in lower case."""
NUMERIC_SHARE = 0.9
"""A column is numeric if at least this share of its cells are numbers; the others are bad cells."""
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
    texts = [None if cell.lower() in MISSING else cell for cell in cells]
    present = [text for text in texts if text is not None]
    if present and all(text.lower() in _FLAGS for text in present):
        return as_kind(Column(name, number, "flag", texts=texts))
    for comma in (False, True) if commas else (False,):
        column = as_kind(Column(name, number, "number", texts=texts, comma=comma))
        parsed = len(present) - sum(_number(texts[row] or "", comma) is None for row in column.bad)
        if parsed >= NUMERIC_SHARE * len(present):
            return column
    return Column(name, number, "text", texts=texts)


def as_kind(column: Column) -> Column:
    """The column with ``values`` and ``bad`` read from its texts by its kind and ``comma``."""
    if column.kind == "text" or column.texts is None:
        return column
    plain = _all_numbers(column.texts) if column.kind == "number" and not column.comma else None
    if plain is not None:
        return replace(column, values=plain, bad={})
    values, bad = [], {}
    for row, text in enumerate(column.texts):
        value: float | None = math.nan
        if text is not None:
            value = _FLAGS.get(text.lower()) if column.kind == "flag" else _number(text, column.comma)
            if value is None:
                bad[row] = "is not true or false" if column.kind == "flag" else "is not a number"
            elif not math.isfinite(value):
                bad[row] = "is not finite"
            elif abs(value) > _LARGEST:
                bad[row] = "is too large for float32"
        values.append(math.nan if value is None else value)
    return replace(column, values=torch.tensor(values, dtype=torch.float64), bad=bad)


def number_column(name: str, number: int, values: Tensor) -> Column:
    """A column stored as numbers ((N,) float64); infinity is a bad cell."""
    beyond = torch.nonzero(values.abs() > _LARGEST).flatten().tolist()
    return Column(name, number, "number", values, bad=dict.fromkeys(beyond, "is not finite in float32"))


def _all_numbers(texts: Sequence[str | None]) -> Tensor | None:
    """The values if all cells are numbers or missing (NaN), else None; faster than cell by cell."""
    try:
        values = torch.from_numpy(np.array([math.nan if text is None else float(text) for text in texts]))
    except ValueError:
        return None
    known = values[~values.isnan()]
    strange = len(known) + sum(text is None for text in texts) < len(texts) or any(
        "_" in text for text in texts if text
    )
    return None if strange or bool((known.abs() > _LARGEST).any()) else values


def _number(text: str, comma: bool) -> float | None:
    if comma:
        text = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    try:
        # float() accepts 1_000, which is not a number in a table.
        return None if "_" in text else float(text)
    except ValueError:
        return None
