"""How the columns of a table were taken, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainctl.data.tables.columns import Column, is_number, quoted
from trainctl.data.tables.numbers import TIME
from trainctl.data.tables.rows import Table, show_names
from trainctl.data.tables.texts import Texts

_SHOWN = 4
_HANDFUL = 5
_EXACT = 2.0**53
_SAMPLE = 50_000
_NUMERIC = re.compile(r"[\s.,:/()<>+*-]*\d[\d\s.,:/()<>+*-]*")


@dataclass(frozen=True)
class Taken:
    """How an input column was taken.

    Attributes:
        notation: how its numbers are written, where that is not plain.
        mixed: its categories are numbers and texts.
        missing: its cells without a value.
        lost: what is lost when its numbers become float32; empty if nothing is.
        described: all of it, as a line for the log.
    """

    name: str
    number: int
    place: str
    categories: int | None
    notation: tuple[str, ...]
    mixed: bool
    missing: int
    lost: str
    described: str


def taken(column: Column, categories: Sequence[str]) -> Taken:
    """How a column with the rows that are used was taken."""
    mixed = column.kind == "text" and _numbers_among(column)
    notation, lost = _notation(column), _vanishing(column)
    parts: list[str] = [column.kind if column.kind != "flag" else "true or false"]
    if column.kind == "text":
        shown = ", ".join(map(quoted, categories[:_SHOWN])) + (", …" if len(categories) > _SHOWN else "")
        parts = [f"category with {len(categories)} values: {shown}"]
        if mixed:
            parts.append("numbers and texts")
    elif column.kind == "number":
        parts += notation
        if any(each.startswith("leading zeros") for each in notation):
            parts.append(f"'dataset.categories=[{column.name}]' would keep them")
    if absent := int(column.missing().sum()):
        marks = f" ({', '.join(column.marks)})" if column.marks else ""
        parts.append(f"{absent} missing{marks}")
    return Taken(
        name=column.name,
        number=column.number,
        place=column.place,
        categories=len(categories) if column.kind == "text" else None,
        notation=tuple(notation),
        mixed=mixed,
        missing=absent,
        lost=lost,
        described="; ".join(filter(None, [*parts, lost])),
    )


def summary(table: Table, inputs: Sequence[Taken], left_out: Mapping[int, str]) -> str:
    """One line for the header: kinds, notations, columns that were left out, numbers that vanish."""
    texts = [column.categories for column in inputs if column.categories is not None]
    numbers = len(inputs) - len(texts)
    counts = [f"{numbers} number column{'s' * (numbers != 1)}"]
    if texts:
        counts = [f"{counts[0]} and {len(texts)} of text ({sum(texts)} categories)"]
    for what in sorted({each for column in inputs for each in column.notation}):
        counts.append(f"{what} in {_named([column for column in inputs if what in column.notation])}")
    if mixed := [column for column in inputs if column.mixed]:
        counts.append(f"numbers and texts, taken as categories, in {_named(mixed)}")
    if absent := [column for column in inputs if column.missing]:
        numbers = any(column.categories is None for column in absent)
        filled = " (numbers become the mean)" if numbers else ""
        counts.append(f"{sum(column.missing for column in absent)} missing in {_named(absent)}{filled}")
    unasked = {number: why for number, why in left_out.items() if why != "dataset.drop"}
    for column in [column for column in table.columns if column.number in unasked][:_SHOWN]:
        counts.append(f"left out {column.place}: {unasked[column.number]}")
    if len(unasked) > _SHOWN:
        counts.append(f"{len(unasked) - _SHOWN} more columns left out, which train.log names")
    counts += [f"{column.place}: {column.lost}" for column in inputs if column.lost][:_SHOWN]
    return "; ".join(counts)


def lost_classes(table: Table, target: Column) -> list[str]:
    """A line for each text of a target that counts as missing and may be the name of a class."""
    texts = {} if target.texts is None else target.texts.counts()
    if table.marks is not None or all(is_number(text) or text.lower() in ("true", "false") for text in texts):
        return []
    return [
        f"{count} rows have no target: {mark} counts as missing; if it is a class: dataset.missing_marks=[]"
        for mark, count in target.marks.items()
        if count > _HANDFUL
    ]


def column_report(
    table: Table, inputs: Sequence[Taken], targets: Sequence[Column], left_out: Mapping[int, str]
) -> tuple[str, ...]:
    """A line for each column of the file: number, category, target, or why it was left out."""
    lines = {number: f"left out: {why}" for number, why in left_out.items()}
    lines |= {column.number: column.described for column in inputs}
    lines |= {target.number: "target" for target in targets}
    return tuple(
        f"{column.place}: {lines[column.number]}" for column in table.columns if column.number in lines
    )


def _notation(column: Column) -> list[str]:
    if column.kind == "text":
        return ["codes with leading zeros, taken as categories"] if _are_codes(column) else []
    if column.kind != "number":
        return []
    unit = column.notation.unit
    order = f" ({column.notation.dates.replace('_', ' ')})" if column.notation.dates else ""
    written = (
        [f"dates or times{order}, in seconds" if unit == TIME else f"numbers with {unit}"] if unit else []
    )
    if column.notation.comma:
        written.append("decimal commas")
    thousands = "." if column.notation.comma else ","
    texts = {} if column.texts is None or column.plain or unit == TIME else column.texts.counts()
    if any(thousands in text for text in texts):
        written.append("thousands separators")
    if not unit and column.leading_zeros():
        written.append("leading zeros, taken as numbers,")
    return written


def _are_codes(column: Column) -> bool:
    return column.leading_zeros() and all(map(str.isdecimal, (column.texts or Texts.of([])).counts()))


def _numbers_among(column: Column) -> bool:
    """Are most of the texts numbers, dates or fractions, but not all of them whole numbers?"""
    texts = {} if column.texts is None else column.texts.counts()
    numbers = sum(count for text, count in texts.items() if _NUMERIC.fullmatch(text))
    return 0 < sum(texts.values()) <= 2 * numbers and not all(map(str.isdecimal, texts))


def _vanishing(column: Column) -> str:
    """What is lost when the numbers of a column become float32; empty if nothing is."""
    values = column.values[~column.values.isnan()]
    if column.kind != "number" or len(values) < 2:
        return ""
    largest = float(values.abs().max())
    rounded = column.texts is not None and largest >= _EXACT
    if len(values) > _SAMPLE and not rounded and not _collide(values):
        return ""
    ordered = np.sort(values.numpy())
    before = _different(ordered)
    if column.texts is not None and rounded:
        before = max(before, len(column.texts.counts()))
    after = _different(_scaled(ordered, values))
    if 2 * after >= before:
        return ""
    return f"{before} different numbers become {after} when they are scaled (see {largest:g})"


def _collide(values: Tensor) -> bool:
    """Do different numbers of a random sample become equal? Where most of all do, some of these do.

    Of n numbers that fall together in pairs, about m² / 2n pairs are in a sample of m: hundreds in one of
    fifty times the root of n. Sorting all of them instead costs a third of reading a large table.
    """
    size = max(_SAMPLE, int(50 * len(values) ** 0.5))
    rows = torch.randint(len(values), (size,), generator=torch.Generator().manual_seed(0))
    ordered = np.sort(values[rows].numpy())
    return _different(_scaled(ordered, values)) < _different(ordered)


def _scaled(numbers: Any, values: Tensor) -> Any:
    deviation = max(float(values.std()), torch.finfo(torch.float64).tiny)
    return ((numbers - float(values.mean())) / deviation).astype(np.float32)


def _different(ordered: Any) -> int:
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _named(columns: Sequence[Taken]) -> str:
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return show_names(column.name for column in columns[:_SHOWN]) + more
