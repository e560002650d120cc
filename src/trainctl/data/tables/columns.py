"""Columns of a table: their kinds, and the values of their cells."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainctl.data.tables.dates import Order
from trainctl.data.tables.numbers import (
    PLAIN,
    TIME,
    Notation,
    find_notation,
    floats,
    read_number,
    read_numbers,
    units,
)
from trainctl.data.tables.texts import Texts

MISSING = frozenset(
    {"", "na", "n/a", "n.a.", "nan", "null", "nil", "none", "?", "<na>", "nat", "\\n"}
    | {f"#{error}" for error in ("n/a", "na", "null!", "div/0!", "value!", "ref!", "name?", "num!")}
)
"""Cells without a value, in lower case."""
SIGNS = frozenset({"-", ".", "--", "..", "...", "\u2013", "\u2014", "\u2026", "*"})
"""Cells without a value in a column of numbers; a text such as + and - elsewhere."""
_BAD_SHARE = 0.1
"""A column is numeric if at most this share of its cells are not numbers; those are bad cells."""
_FEW_NUMBERS = 20
_FEW_UNITS = 3
"""Numbers with more units are names, such as those of seats: 12A."""
_NO_NUMBER, _NO_TIME = "is not a number", "is not a date or time"
LARGEST = torch.finfo(torch.float32).max
_FLAGS = {"false": 0.0, "true": 1.0}
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,14}))(?:\.0*)?", re.ASCII)
_CODE = re.compile(r"[-+]?0\d+")
"""007: the name of something, not the number seven."""
_CODE_LENGTH = 5
"""Digits of a code in which others of the column have leading zeros: 02139 is one, 08 may be a month."""


@dataclass(frozen=True)
class Column:
    """One column, of a table or of some rows of it.

    Attributes:
        number: its position in the file, from 1.
        kind: ``flag`` is a column of true and false: a number as an input, two classes as a target.
        values: (N,) float64, NaN for a missing value; empty for ``text``.
        texts: the cells as text, None for a missing value; None if the file stores numbers.
        bad: the problem of each cell that does not fit the kind, by row.
        notation: how its numbers are written.
        marks: the texts among its cells that stand for a missing value, with their counts; 0: not counted.
        stored: its type is the file's, not found in its texts.
        labels: its texts are classes.
        signs: a lone ``-`` or ``.`` is a missing number.
        plain: ``values`` are those of its texts, all of them plain numbers, so that nobody has to look there.
        coded: there may be leading zeros in its texts.
        no_input: why the column is no input unless one asks for it: it numbers the rows.
        unusable: the type of a column that is neither numbers nor text.
        unclear: message and remedy, if it could be read in two ways.
    """

    name: str
    number: int
    kind: Literal["number", "flag", "text"]
    values: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    texts: Texts | None = None
    bad: dict[int, str] = field(default_factory=dict)
    notation: Notation = PLAIN
    signs: bool = True
    plain: bool = False
    coded: bool = True
    marks: Mapping[str, int] = field(default_factory=dict)
    stored: bool = False
    labels: bool = False
    no_input: str = ""
    unusable: str = ""
    unclear: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        """The column in messages."""
        return f"column {self.number}" + ("" if self.name == str(self.number) else f" ({self.name})")

    def cell(self, row: int) -> str | None:
        """A cell as it stands in the file, None without a value."""
        value = math.nan if self.texts is not None else float(self.values[row])
        return self.texts[row] if self.texts is not None else None if math.isnan(value) else f"{value:g}"

    def missing(self) -> Tensor:
        """(N,) bool: the cells without a value; a bad cell is not missing."""
        if self.kind == "text":
            return torch.empty(0, dtype=torch.bool) if self.texts is None else self.texts.missing()
        absent = self.values.isnan()
        absent[list(self.bad)] = False
        return absent

    def keep(self, rows: Tensor) -> Column:
        """The column with only these rows ((M,) int64, in order), none of which has a bad cell."""
        if len(rows) == max(len(self.values), len(self.texts or ())):
            return replace(self, bad={})
        values = self.values[rows] if len(self.values) else self.values
        texts = None if self.texts is None else self.texts.take(rows)
        return replace(self, values=values, texts=texts, bad={})

    def leading_zeros(self) -> bool:
        """Has it a number such as 007?"""
        return self.coded and self.texts is not None and any(map(is_code, self.texts.counts()))

    def as_text(self) -> Column:
        """The column with its cells as text: those of the file, else whole numbers without a point."""
        texts = self.texts
        if texts is None:
            unique, codes = np.unique(self.values.numpy(), return_inverse=True)
            texts = Texts.coded([_shown(value) for value in unique.tolist()], codes)
        none = torch.empty(0, dtype=torch.float64)
        return replace(self, kind="text", values=none, texts=texts, bad={}, unclear=None)


def read_column(
    name: str,
    number: int,
    cells: Iterable[str] | Texts,
    *,
    marks: Sequence[str] | None = None,
    decimal: str = "auto",
    delimiter: str = ",",
) -> Column:
    """A column of text cells, of the kind that fits them.

    Args:
        marks: cells without a value; None is the usual ones.
        decimal: the decimal sign of its numbers, ``auto`` to find it.
        delimiter: of the file, because a comma between cells is none in a number.
    """
    cells = cells if isinstance(cells, Texts) else Texts.of(cells)
    texts = cells.map(lambda cell: present(cell or "", marks))
    signs = marks is None
    used = marks_in(cells, texts)
    given = {text: count for text, count in texts.counts().items() if not (signs and text in SIGNS)}
    if given and all(text.lower() in _FLAGS for text in given):
        return as_kind(Column(name, number, "flag", texts=texts, signs=signs, marks=used))
    if decimal == "auto" and _are_codes(given):
        return Column(name, number, "text", texts=texts, signs=signs, marks=used)
    notation = find_notation(given, decimal, delimiter)
    column = as_kind(Column(name, number, "number", texts=texts, notation=notation, signs=signs, marks=used))
    if _fits(column, given):
        return replace(column, unclear=_two_readings(column)) if notation.unclear else column
    text = Column(name, number, "text", texts=texts, signs=signs, marks=used)
    return replace(text, unclear=mixed_numbers(text, column))


def marks_in(cells: Texts, texts: Texts) -> dict[str, int]:
    """The cells that are no text, because they stand for a missing value, with their counts."""
    used = sorted(
        cell for cell, text in zip(cells.unique, texts.unique, strict=True) if cell and text is None
    )
    counts = cells.counts() if used else {}
    return {mark: counts[mark] for mark in used if mark in counts}


def times_in(column: Column) -> Column:
    """A column stored as text: one of dates and times if they are in it, else text."""
    texts = {} if column.texts is None else column.texts.counts()
    notation = find_notation(texts, "auto", ",")
    times = as_kind(replace(column, kind="number", notation=notation, stored=False))
    if notation.unit == TIME and _fits(times, texts):
        return replace(times, unclear=_two_readings(times) if notation.unclear else None)
    return replace(column, unclear=mixed_numbers(column, times))


def _fits(column: Column, texts: Mapping[str, int]) -> bool:
    """Are nearly all of the cells numbers?"""
    return sum(why in (_NO_NUMBER, _NO_TIME) for why in column.bad.values()) <= _BAD_SHARE * sum(
        texts.values()
    )


def settle_dates(columns: Sequence[Column], asked: str) -> tuple[Column, ...]:
    """The columns of a file with one order of day and month: the one that is ``asked`` for, else, with
    ``auto``, a column with two readings gets the one that the others prove."""
    dated = {column.number: column for column in columns if column.kind == "number" and column.notation.dates}
    orders: set[Order] = {column.notation.dates for column in dated.values() if not column.unclear}
    if asked in ("day_first", "month_first"):
        orders = {"day_first" if asked == "day_first" else "month_first"}
    elif len(orders) == 1:
        dated = {number: column for number, column in dated.items() if column.unclear}
    if len(orders) != 1:
        return tuple(columns)
    order = orders.pop()
    read = {
        number: as_kind(replace(column, notation=Notation(unit=TIME, dates=order), unclear=None))
        for number, column in dated.items()
    }
    return tuple(read.get(column.number, column) for column in columns)


def _are_codes(texts: Collection[str]) -> bool:
    """Are they all digits, as many each, with leading zeros, as postal codes are?"""
    return (
        any(text[0] == "0" for text in texts)
        and len(first := next(iter(texts))) >= _CODE_LENGTH
        and all(len(text) == len(first) and text.isascii() and text.isdecimal() for text in texts)
    )


def _two_readings(column: Column) -> tuple[str, str]:
    cell = column.notation.unclear
    if column.notation.unit == TIME:
        return (
            f"{column.place}: {quoted(cell)} can be read with the day or with the month first",
            "say which it is: dataset.dates=day_first or dataset.dates=month_first",
        )
    return (
        f"{column.place}: {quoted(cell)} can be read with a decimal or with a thousands separator",
        "say which sign decimals have: dataset.decimal=. or 'dataset.decimal=\",\"'",
    )


def mixed_numbers(column: Column, as_numbers: Column | None = None) -> tuple[str, str] | None:
    """Message and remedy for a text column of which at least half are numbers, more than categories have."""
    texts = {} if column.texts is None else column.texts.counts()
    if as_numbers is None:
        as_numbers = as_kind(replace(column, kind="number", notation=find_notation(texts, "auto", ",")))
    values = as_numbers.values[as_numbers.values.isfinite()]
    total, found = sum(texts.values()), units(texts)
    several = sum(count for _, count in found.most_common(_FEW_UNITS))
    if 2 * len(values) < total and several < (1 - _BAD_SHARE) * total:
        return None
    if len(torch.unique(values)) <= _FEW_NUMBERS:
        return None
    others = Counter((column.texts or ())[row] for row in as_numbers.bad)
    share = f"{100 * len(values) // max(1, total)}%"
    if not others:
        return (f"{column.place} has numbers that are stored as text", _MIXED_REMEDY.format(column.name))
    cell, count = others.most_common(1)[0]
    unit = as_numbers.notation.unit
    what = "dates or times" if unit == TIME else f"numbers with {unit}" if unit else "numbers"
    mark = f"'dataset.missing_marks=[{cell}]' if it is a missing value; " if count > 1 else ""
    return (
        f"{column.place}: {share} of the cells are {what}, {quoted(cell or '')} ({count}) is not",
        f"{mark}{_MIXED_REMEDY.format(column.name)}",
    )


_MIXED_REMEDY = "correct the cells, or take all as categories: 'dataset.categories=[{}]'"


def present(cell: str, marks: Sequence[str] | None = None) -> str | None:
    """The cell, None if it stands for a missing value."""
    if marks is None:
        return None if cell.lower() in MISSING else cell
    return None if not cell or cell in marks else cell


def as_kind(column: Column) -> Column:
    """The column with ``values`` and ``bad`` read from its texts by its kind and notation."""
    if column.kind == "text" or column.texts is None:
        return column
    notation = column.notation
    if column.plain and column.kind == "number" and not notation.comma and not notation.unit:
        return column
    unique = [None if column.signs and text in SIGNS else text for text in column.texts.unique]
    numbers = np.array(_numbers(unique, column), np.float64)
    reasons: list[str] = [""] * len(unique)
    for index in np.flatnonzero(~(np.abs(numbers) <= LARGEST)).tolist():
        value = numbers[index]
        if unique[index] is None:
            continue
        if column.kind == "flag":
            reasons[index] = "is not true or false"
        elif math.isnan(value):
            reasons[index] = _NO_TIME if notation.unit == TIME else _NO_NUMBER
        else:
            reasons[index] = "is not finite" if math.isinf(value) else "is too large for float32"
    codes = column.texts.codes
    bad = {row: reasons[codes[row]] for row in column.texts.rows_of([bool(reason) for reason in reasons])}
    return replace(column, values=torch.from_numpy(numbers[codes]), bad=bad, plain=False)


def number_column(name: str, number: int, values: Tensor, texts: Texts | None = None) -> Column:
    """A column stored as numbers ((N,) float64); infinity is a bad cell."""
    beyond = torch.nonzero(values.abs() > LARGEST).flatten().tolist()
    bad = dict.fromkeys(beyond, "is not finite in float32")
    return Column(name, number, "number", values, texts=texts, bad=bad, stored=True)


def _numbers(texts: Sequence[str | None], column: Column) -> list[float]:
    """The value of each cell, NaN where there is none."""
    if column.kind == "flag":
        return [_FLAGS.get((text or "").lower(), math.nan) for text in texts]
    if column.notation.unit == "" and not column.notation.comma:
        plain = floats(texts)
        if plain is not None:
            return plain
    return read_numbers(texts, column.notation)


def is_number(cell: str) -> bool:
    """Is it a number by itself? 100m, with a word for a unit, may be a name."""
    notation = find_notation({cell: 1}, "auto", ",")
    if notation.unit != TIME and notation.unit[:1].isalpha():
        return False
    return present(cell) is not None and not math.isnan(read_number(cell, notation))


def is_code(text: str | None) -> bool:
    """Is it a number with leading zeros?"""
    return text is not None and _CODE.fullmatch(text) is not None


def whole_number(text: str) -> str | None:
    """A whole number as one writes it, from texts such as 7, -7, 7.0; None for any other text."""
    found = _WHOLE.fullmatch(text)
    return None if found is None else found.group(1)


def _shown(value: float) -> str | None:
    if math.isnan(value):
        return None
    return f"{value:.15g}" if value % 1 else str(int(value))


def quoted(text: str) -> str:
    """The text of a cell in messages, cut when it is long."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
