"""The columns of a large text table, most of them without a look at a single cell.

A column of plain numbers is converted by pyarrow, piece by piece; one of few different texts is kept as
these. What the cells mean is decided by :func:`read_column` in all other cases; it gets the texts of a column
when they are needed, by reading the file once more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow
import torch
from pyarrow import compute

from trainctl.data.tables.columns import LARGEST, SIGNS, Column, as_kind, present, read_column
from trainctl.data.tables.numbers import Notation, floats
from trainctl.data.tables.pieces import Array, Cells, Layout, pieces
from trainctl.data.tables.texts import Codes, Texts
from trainctl.errors import ConfigError

_FEW = 1000
"""A column with more different texts is converted, if they are numbers."""
_MANY = 100_000
"""More texts are kept of one column at a time only."""
_PLAIN = r"^-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_EITHER = r"^\D*[1-9]\d{0,2}[.,]\d{3}\D*$"
"""As in ``numbers``: 1.850 could be 1850."""
_CODE = r"^[-+]?0\d"


@dataclass
class Bulk:
    """The columns of a file, and the rows that are not among them."""

    readers: list[Reader]
    lines: Sequence[int] = ()
    uneven: Counter[int] = field(default_factory=Counter)
    first_uneven: tuple[int, list[str]] | None = None


def read_bulk(layout: Layout, marks: Sequence[str] | None) -> Bulk:
    """Read all rows. ``marks`` are cells without a value, None the usual ones.

    Raises ConfigError for bytes that are not text and rows that are none.
    """
    bulk = Bulk([Reader(layout, index, marks) for index in range(layout.width)])
    lines: list[range | Array] = []
    for piece in pieces(layout):
        if len(piece.lines):
            lines.append(piece.lines)
            for reader, cells in zip(bulk.readers, piece.columns, strict=True):
                reader.add(cells, zeros=piece.zeros)
        for line, found in piece.uneven:
            bulk.first_uneven = bulk.first_uneven or (line, found)
            bulk.uneven[len(found)] += 1
    bulk.lines = _joined(lines)
    return bulk


def _joined(lines: Sequence[range | Array]) -> Sequence[int]:
    next_line = lines[0][0] if lines else 0
    for each in lines:
        if not isinstance(each, range) or each[0] != next_line:
            found: Any = np.concatenate([np.asarray(each) for each in lines])
            return cast(Sequence[int], found)
        next_line = each[-1] + 1
    return range(int(lines[0][0]), int(next_line)) if lines else ()


class Reader:
    """One column: few texts, or plain numbers, or neither: then its texts stay in the file."""

    def __init__(self, layout: Layout, index: int, marks: Sequence[str] | None) -> None:
        self._layout, self._index, self._marks = layout, index, marks
        self._count = 0
        self._texts: _Coded | None = _Coded()
        self._numbers: _Numbers | None = None

    def add(self, cells: Cells, *, zeros: bool) -> None:
        """Take more cells; ``zeros``: there may be a number such as 007."""
        self._count += len(cells)
        if self._texts is None:
            if self._numbers is not None and not self._numbers.add(cells, zeros=zeros):
                self._numbers = None
            return
        self._texts.add(cells)
        different = len(self._texts.position)
        if different > _FEW and not self._texts.are_other:
            self._texts.are_other = True
            numbers = _Numbers(self._marks)
            if numbers.add(pyarrow.array([text or None for text in self._texts.position]), zeros=True):
                numbers.spread(self._texts.codes())
                self._texts, self._numbers = None, numbers
        elif different > _MANY:
            self._texts = None

    def column(self, name: str, decimal: str, delimiter: str) -> Column:
        """The column as :func:`read_column` reads its texts."""
        number, marks, numbers = self._index + 1, self._marks, self._numbers
        plain = numbers is not None and decimal != "," and (numbers.proven or not numbers.pointed)
        plain = plain and not (numbers and numbers.coded)  # codes of one length are texts
        if numbers is not None and plain:
            column = Column(
                name,
                number,
                "number",
                torch.from_numpy(numbers.values()),
                notation=Notation(proven=numbers.proven or decimal == "."),
                signs=marks is None,
                marks=dict.fromkeys(sorted(numbers.used), 0),
                plain=True,
                coded=numbers.coded,
            )
        else:
            cells = Texts(self._count, self._texts_in_file)
            if self._texts is not None:
                cells = Texts.coded([*self._texts.position], self._texts.codes())
            column = read_column(name, number, cells, marks=marks, decimal=decimal, delimiter=delimiter)
        if self._texts is None and column.kind != "text":
            # Not kept, because the numbers are enough in nearly all cases.
            column = replace(column, texts=Texts(self._count, self._present_in_file))
        return column

    def _texts_in_file(self) -> tuple[list[str | None], Codes]:
        """The cells, read once more."""
        coded = _Coded()
        for piece in pieces(self._layout, [self._index]):
            coded.add(piece.columns[0])
        codes = coded.codes()
        if len(codes) != self._count:
            raise ConfigError(f"{self._layout.file} was changed while it was read", "start again")
        return [*coded.position], codes

    def _present_in_file(self) -> tuple[list[str | None], Codes]:
        unique, codes = self._texts_in_file()
        return [present(text or "", self._marks) for text in unique], codes


def column_of(cells: Cells, like: Column, marks: Sequence[str] | None) -> Column:
    """Cells as a column of the kind, notation and place of ``like``."""
    if like.kind == "number" and not like.notation.comma and not like.notation.unit:
        values = _floats(cells)
        nothing = 0 if values is None else np.count_nonzero(np.isnan(values))
        if values is not None and nothing == cells.null_count:
            beyond = np.abs(values[~np.isnan(values)]) > LARGEST
            if not beyond.any():
                texts = Texts(len(cells), lambda: _present_parts(cells, marks))
                return replace(like, values=torch.from_numpy(values.copy()), texts=texts, plain=True)
    return as_kind(replace(like, texts=Texts.coded(*_present_parts(cells, marks))))


def _present_parts(cells: Cells, marks: Sequence[str] | None) -> tuple[list[str | None], Codes]:
    coded = _Coded()
    coded.add(cells)
    return [present(text, marks) for text in coded.position], coded.codes()


class _Coded:
    """Texts and the positions of cells among them; ``are_other`` than numbers."""

    def __init__(self) -> None:
        self.position: dict[str, int] = {}
        self.are_other = False
        self._codes: list[Codes] = []

    def add(self, cells: Cells) -> None:
        coded = cells.dictionary_encode()
        texts = [text.strip() for text in coded.dictionary.to_pylist()]
        indices, order = coded.indices, [*range(len(texts))]
        if indices.null_count:
            # Texts are in the order of their first cells, and so is an empty one.
            first = int(compute.index(indices.is_null(), True).as_py())
            before = compute.max(indices.slice(0, first)).as_py() if first else None
            order.insert(0 if before is None else before + 1, len(texts))
            texts.append("")
            indices = indices.fill_null(len(texts) - 1)
        for index in order:
            self.position.setdefault(texts[index], len(self.position))
        small = np.int16 if len(self.position) < 1 << 15 else np.int32
        self._codes.append(np.array([self.position[text] for text in texts], small)[indices.to_numpy()])

    def codes(self) -> Codes:
        return np.concatenate(self._codes) if self._codes else np.empty(0, np.int32)


class _Numbers:
    """Plain numbers and marks of missing ones.

    Attributes:
        used: the marks among them.
        pointed: a number has a point, which is before decimals for sure if ``proven``.
        coded: there may be a number such as 007.
    """

    def __init__(self, marks: Sequence[str] | None) -> None:
        self._marks = marks
        self.used: set[str] = set()
        self.pointed = self.proven = self.coded = False
        self._values, self._count = np.empty(0), 0

    def add(self, cells: Cells, *, zeros: bool) -> bool:
        """False if a cell is something else: from then on the numbers are of no use."""
        values = _floats(cells)
        if values is None or np.count_nonzero(np.isnan(values)) > cells.null_count:
            cleaned = self._without_marks(cells)
            if cleaned is None:
                return False
            cells, values = cleaned
        given = values[~np.isnan(values)] if cells.null_count else values
        if len(given) and not (given.max() <= LARGEST and given.min() >= -LARGEST):
            return False
        if not self.proven:
            self._look_at_points(cells.filter(compute.match_substring(cells, ".")))
        if zeros and not self.coded:
            self.coded = bool(compute.any(compute.match_substring_regex(cells, _CODE)).as_py())
        end = self._count + len(values)
        if end > len(self._values):
            self._values.resize(max(end, len(self._values) * 3 // 2), refcheck=False)
        self._values[self._count : end] = values
        self._count = end
        return True

    def spread(self, codes: Codes) -> None:
        """Put the numbers that ``codes`` choose in the place of all."""
        self._values, self._count = self.values()[codes], len(codes)

    def values(self) -> Array:
        self._values.resize(self._count, refcheck=False)
        return self._values

    def _without_marks(self, cells: Cells) -> tuple[Cells, Array] | None:
        """The numbers without marks, and all values; None if there is something else."""
        is_plain = compute.match_substring_regex(cells, _PLAIN)
        odd = np.flatnonzero(compute.invert(is_plain).fill_null(False).to_numpy(zero_copy_only=False))
        coded = cells.take(pyarrow.array(odd)).dictionary_encode()
        found = [self._odd_value(text.strip()) for text in coded.dictionary.to_pylist()]
        plain = compute.if_else(is_plain, cells, pyarrow.scalar(None, pyarrow.string()))
        values = _floats(plain)
        if values is None or None in found:
            return None
        values = values.copy()
        if found:
            values[odd] = np.array(found)[coded.indices.to_numpy()]
        return plain, values

    def _odd_value(self, text: str) -> float | None:
        """The value of a text that may be a mark, NaN if it is, or a number such as +5; None for others."""
        if present(text, self._marks) is None:
            self.used.update({text} - {""})
            return math.nan
        if self._marks is None and text in SIGNS:
            return math.nan
        read = floats([text])
        if read is not None:
            self._look_at_points(pyarrow.array([text] if "." in text else [], pyarrow.string()))
            self.coded = True
        return None if read is None else read[0]

    def _look_at_points(self, pointed: Cells) -> None:
        if len(pointed):
            self.pointed = True
            self.proven |= not compute.all(compute.match_substring_regex(pointed, _EITHER)).as_py()


def _floats(cells: Cells) -> Array | None:
    try:
        values: Array = cells.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
    except pyarrow.ArrowInvalid:
        return None
    return values
