"""Columns that arrow has read, with their types."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy
import torch

from trainctl.data.tables.columns import Column, as_kind, marks_in, number_column, present
from trainctl.data.tables.numbers import TIME, Notation
from trainctl.data.tables.texts import Texts

_EXACT = 2.0**53
"""From here on float64 does not hold every integer."""


def texts_of(values: Any) -> Texts:
    """The cells of an arrow column of strings."""
    coded = values.combine_chunks().dictionary_encode()
    coded = coded.combine_chunks() if hasattr(coded, "combine_chunks") else coded
    codes = coded.indices.fill_null(len(coded.dictionary)).to_numpy(zero_copy_only=False)
    return Texts.coded([*coded.dictionary.to_pylist(), None], codes.copy())


def arrow_column(name: str, number: int, values: Any, marks: Sequence[str] | None) -> Column:
    """A column of a file, of arrow's values or floats; ``unusable`` unless it has numbers, times or text."""
    if isinstance(values, numpy.ndarray):
        return number_column(name, number, torch.from_numpy(values), None)
    import pyarrow

    types, kind = pyarrow.types, values.type
    if types.is_dictionary(kind):
        kind = kind.value_type
        values = values.cast(kind)
    if types.is_boolean(kind):
        flags = texts_of(values.cast(pyarrow.string()))
        return as_kind(Column(name, number, "flag", texts=flags, stored=True))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        cells = texts_of(values).map(lambda text: unicodedata.normalize("NFC", text or "").strip())
        texts = cells.map(lambda cell: present(cell or "", marks))
        used = marks_in(cells, texts)
        return Column(name, number, "text", texts=texts, stored=True, marks=used, signs=marks is None)
    if types.is_integer(kind) or types.is_decimal(kind) or types.is_null(kind):
        # A copy, because torch requires writable arrays.
        numbers = torch.from_numpy(values.cast(pyarrow.float64(), safe=False).to_numpy().copy())
        exact = None
        if len(numbers) and numbers.nan_to_num().abs().max() >= _EXACT:
            exact = texts_of(values.cast(pyarrow.string()))
        return number_column(name, number, numbers, exact)
    if types.is_timestamp(kind) or types.is_date(kind):
        # By way of nanoseconds, a year such as 9999 would overflow.
        micros = values.cast(pyarrow.timestamp("us"), safe=False).cast(pyarrow.int64())
        seconds = micros.cast(pyarrow.float64(), safe=False).to_numpy() / 1e6
        return replace(number_column(name, number, torch.from_numpy(seconds)), notation=Notation(unit=TIME))
    return Column(name, number, "text", unusable=str(values.type))
