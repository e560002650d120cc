"""How the columns of a table were taken, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainctl.data.tables.columns import Column, is_code, quoted
from trainctl.data.tables.numbers import TIME
from trainctl.data.tables.rows import Table, show_names

_SHOWN = 4
_EXACT = 2.0**53


def summary(
    table: Table, inputs: Sequence[Column], categories: Sequence[Sequence[str]], left_out: Mapping[int, str]
) -> str:
    """One line for the header: kinds, notations, columns that were left out, numbers that vanish."""
    texts = [column for column in inputs if column.kind == "text"]
    counts = [f"{len(inputs) - len(texts)} number columns"]
    if texts:
        counts = [f"{counts[0]} and {len(texts)} of text ({sum(map(len, categories))} categories)"]
    for what in sorted({each for column in inputs for each in _notation(column)}):
        counts.append(f"{what} in {_named([column for column in inputs if what in _notation(column)])}")
    mixed = [column for column in texts if _numbers_among(column)]
    if mixed:
        counts.append(f"numbers and texts, taken as categories, in {_named(mixed)}")
    unasked = {number: why for number, why in left_out.items() if why != "dataset.drop"}
    for column in [column for column in table.columns if column.number in unasked][:_SHOWN]:
        counts.append(f"left out {column.place}: {unasked[column.number]}")
    if len(unasked) > _SHOWN:
        counts.append(f"{len(unasked) - _SHOWN} more columns left out, which train.log names")
    counts += [f"{column.place}: {lost}" for column in inputs if (lost := _vanishing(column))][:_SHOWN]
    return "; ".join(counts)


def column_report(
    table: Table,
    inputs: Sequence[Column],
    categories: Sequence[Sequence[str]],
    target: Column,
    left_out: Mapping[int, str],
) -> tuple[str, ...]:
    """A line for each column of the file: number, category, target, or why it was left out."""
    lines = {number: f"left out: {why}" for number, why in left_out.items()}
    lines |= {
        column.number: _described(column, names) for column, names in zip(inputs, categories, strict=True)
    }
    lines[target.number] = "target"
    return tuple(
        f"{column.place}: {lines[column.number]}" for column in table.columns if column.number in lines
    )


def _described(column: Column, names: Sequence[str]) -> str:
    parts: list[str] = [column.kind if column.kind != "flag" else "true or false"]
    if column.kind == "text":
        shown = ", ".join(map(quoted, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
        parts = [f"category with {len(names)} values: {shown}"]
        if _numbers_among(column):
            parts.append("numbers and texts")
    elif column.kind == "number":
        parts += _notation(column)
        if any(map(is_code, column.texts or ())):
            parts.append("leading zeros: dataset.categories would keep them")
    absent = int(column.missing().sum())
    if absent:
        marks = f" ({', '.join(column.marks)})" if column.marks else ""
        parts.append(f"{absent} missing{marks}")
    return "; ".join(filter(None, [*parts, _vanishing(column)]))


def _notation(column: Column) -> list[str]:
    if column.kind != "number":
        return []
    unit = column.notation.unit
    written = ["dates or times, in seconds" if unit == TIME else f"numbers with {unit}"] if unit else []
    if column.notation.comma:
        written.append("decimal commas")
    thousands = "." if column.notation.comma else ","
    if column.texts is not None and unit != TIME and any(thousands in text for text in column.texts if text):
        written.append("thousands separators")
    return written


def _numbers_among(column: Column) -> bool:
    """Are most of the texts numbers?"""
    texts = [text for text in column.texts or () if text is not None]
    return 0 < len(texts) <= 2 * sum(text.replace(".", "", 1).isdecimal() for text in texts) < 2 * len(texts)


def _vanishing(column: Column) -> str:
    """What is lost when the numbers of a column become float32; empty if nothing is."""
    values = column.values[~column.values.isnan()]
    if column.kind != "number" or len(values) < 2:
        return ""
    before = _different(values)
    if column.texts is not None and bool(values.abs().max() >= _EXACT):
        before = max(before, len({*column.texts} - {None}))
    scaled = (values - values.mean()) / values.std().clamp(min=torch.finfo(torch.float64).tiny)
    after = _different(scaled.to(torch.float32))
    if 2 * after >= before:
        return ""
    return (
        f"{before} different numbers become {after} when they are scaled (see {float(values.abs().max()):g})"
    )


def _different(values: Tensor) -> int:
    return len(torch.unique(values))


def _named(columns: Sequence[Column]) -> str:
    more = f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else ""
    return show_names(column.name for column in columns[:_SHOWN]) + more
