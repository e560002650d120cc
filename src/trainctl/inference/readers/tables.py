"""Rows of a CSV file, read like the table that the run was trained on."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from trainctl.data.files import opened
from trainctl.data.tables.bulk import column_of
from trainctl.data.tables.columns import Column, as_kind, is_number, present, quoted
from trainctl.data.tables.header import has_header, short_header, unique_names
from trainctl.data.tables.numbers import TIME, find_notation
from trainctl.data.tables.pieces import Layout, Piece, blocks
from trainctl.data.tables.rows import show_names
from trainctl.data.tables.table import column_like, encode
from trainctl.data.tables.text import choose_delimiter, find_encoding, no_encoding, rows
from trainctl.data.tables.texts import Texts
from trainctl.errors import ConfigError, nearest
from trainctl.inference.readers.base import Batch, convert, require_readable, why_bad

_SAMPLE = 1 << 18
_SAMPLE_ROWS = 200
# From here on float64, in which cells are read, does not hold every integer.
_EXACT = 2.0**53
_Row = tuple[int, list[str], str]


class TableFile:
    """A CSV file, plain or gzipped. Columns are found by their names in training, or by number.

    The target column is ignored. A row with a wrong number of cells, or with a cell that does not fit its
    column, is one of the ``errors``; a category that training did not have counts as missing.
    """

    unit = "row"
    place = "line {}, "
    """How messages on a cell begin; the row is named before."""

    def __init__(
        self, path: Path, raw: Mapping[str, Any], reading: Mapping[str, Any], dataset: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.total, self.done = path.stat().st_size if path.is_file() else 0, 0
        self.notices: list[str] = []
        if reading.get("kind") in ("table", "columns", "texts"):
            self.reading = reading
        else:
            require_readable(raw["dtype"], f"--input {path}")
            self.reading = _plain_reading(raw["shape"][0])
        # Rows of a table are encoded by category, other rows of numbers converted to this type.
        self.dtype = None if self.reading is reading else str(raw["dtype"])
        self.columns = [column_like(each, self.reading) for each in self.reading["columns"]]
        self.categories = [each["categories"] for each in self.reading["columns"]]
        self.marks = self.reading.get("missing_marks")
        self.wide = self.reading.get("dtype") == "float64"
        self.unknown: Counter[str] = Counter()
        categorical = any(column.kind == "text" for column in self.columns)
        self.has_notes = categorical and self.reading.get("kind") != "texts"
        self._open(dataset)

    def _open(self, dataset: Mapping[str, Any]) -> None:
        """Find out how the file is written, and which cell of a row is which column."""
        self.skip_lines = int(dataset.get("skip_lines", 0))
        self.encoding = self._find_encoding(str(dataset.get("encoding", "auto")))
        self.delimiter = self._find_delimiter(str(dataset.get("delimiter", "auto")))
        self._read_header(dataset.get("header", "auto"))

    def _find_encoding(self, asked: str) -> str:
        with opened(self.path) as (content, _):
            if not content.read(_SAMPLE).strip():
                raise ConfigError(f"{self.path} is empty", "name another file with --input FILE")
            content.seek(0)
            return find_encoding(content, str(self.path)) if asked == "auto" else asked

    def _find_delimiter(self, asked: str) -> str:
        with opened(self.path) as (content, _), self._text(content) as text:
            sample = text.read(_SAMPLE)
        if len(sample) == _SAMPLE:
            sample = sample[: sample.rfind("\n") + 1] or sample
        for delimiter in dict.fromkeys((asked, "auto")):
            with contextlib.suppress(ConfigError):
                found = choose_delimiter(sample, str(self.path), delimiter, self.skip_lines)
                first = next(rows(io.StringIO(sample, newline=""), found, self.skip_lines), (0, [], ""))
                # The run's own, unless this file is written with another one.
                if len(first[1]) > 1 or len(self.columns) == 1:
                    return found
        if len(self.columns) > 1:
            return choose_delimiter(sample, str(self.path), asked, self.skip_lines)
        return ","  # one column has no delimiter

    def _text(self, content: BinaryIO) -> io.TextIOWrapper:
        # A byte that cannot be decoded becomes a character that no number and no category has.
        try:
            return io.TextIOWrapper(content, encoding=self.encoding, errors="replace", newline="")
        except (LookupError, ValueError) as error:
            raise no_encoding(self.encoding) from error

    def _rows(self) -> Iterator[_Row]:
        with opened(self.path) as (content, self._file), self._text(content) as text:
            yield from rows(text, self.delimiter, self.skip_lines)
            self.done = self.total

    def _read_header(self, asked: Any) -> None:
        """Find out whether there is a header, and which cell of a row is which column."""
        sample = [(line, cells) for line, cells, wrong in islice(self._rows(), _SAMPLE_ROWS) if not wrong]
        if not sample:
            raise ConfigError(f"{self.path} has no rows", "name another file with --input FILE")
        short = short_header(sample, "auto" if asked == "auto" else bool(asked))
        sample[0] = (sample[0][0], short or sample[0][1])
        self.width = len(sample[0][1])
        first = unique_names(sample[0][1], self.width)
        wanted = [column.name for column in self.columns]
        even = [row for row in sample if len(row[1]) == self.width]
        if isinstance(asked, bool):
            self.has_header = asked
        elif self.reading["named"] and self._names(wanted, sample[0][1]):
            self.has_header = True
        else:
            self.has_header = has_header(even, "auto", self.delimiter)
        if self.has_header and self.reading["named"]:
            self.places = self._by_name(first, wanted)
        else:
            self.places = self._by_number(wanted)
        self._read_decimals([cells for _, cells in even[self.has_header :]])

    def _read_decimals(self, sample: Sequence[Sequence[str]]) -> None:
        """Take the other decimal sign where the numbers of ``sample`` can be read with that only."""
        signs = set()
        for column, place in zip(self.columns, self.places, strict=True):
            cells = Counter(cell for row in sample if (cell := present(row[place], self.marks)))
            found = find_notation(cells, "auto", self.delimiter)
            if column.kind == "number" and column.notation.unit != TIME and found.proven:
                signs.add((found.comma, column.notation.comma))
        if signs and all(here != trained for here, trained in signs):
            comma = next(iter(signs))[0]
            self.notices.append(f"numbers have a decimal {'comma' if comma else 'point'}, not as in training")
            self.columns = [
                replace(column, notation=replace(column.notation, comma=comma)) for column in self.columns
            ]

    def _names(self, wanted: Sequence[str], cells: Sequence[str]) -> bool:
        """Are these cells names of columns? A number is one only where all columns are there."""
        if all(map(is_number, wanted)):
            return set(wanted) <= set(cells)
        return any(name in cells for name in wanted if not is_number(name))

    def _by_name(self, names: Sequence[str], wanted: Sequence[str]) -> list[int]:
        place = {name: number for number, name in enumerate(names)}
        absent = [name for name in wanted if name not in place]
        if absent:
            close = nearest(absent[0], [name for name in names if name not in wanted])
            hint = f"did you mean {show_names([close])}? " if close else ""
            raise ConfigError(
                f"{self.path} has no column {show_names(absent)}, which the run was trained on",
                f"{hint}there are: {show_names(names)}",
            )
        known = {*wanted, *(each["name"] for each in self.reading["targets"])}
        others = [name for name in names if name not in known]
        if others:
            self.notices.append(f"ignored columns: {show_names(others)}")
        return [place[name] for name in wanted]

    def _by_number(self, wanted: Sequence[str]) -> list[int]:
        """By their numbers in training; in order where the file has the input columns only."""
        if self.width == self.reading["width"]:
            return [column.number - 1 for column in self.columns]
        if self.width == len(self.columns):
            return list(range(self.width))
        raise ConfigError(
            f"{self.path} has {self.width} columns{'' if self.has_header else ' without names'}, the run was"
            f" trained on {len(self.columns)} of {self.reading['width']}",
            f"use these columns: {show_names(wanted)}",
        )

    def batches(self, size: int) -> Iterator[Batch]:
        number = 0
        for part in self._parts(size):
            batch = self._split_batch(number, part) if isinstance(part, Piece) else self._batch(number, part)
            yield batch
            number += len(batch.names)
            if not self._file.closed:
                self.done = self._file.tell()
        self.done = self.total

    def _parts(self, size: int) -> Iterator[Piece | list[_Row]]:
        """The rows below the header, by pyarrow where it splits them as the careful reader does."""
        layout = Layout(self.path, self.encoding, self.delimiter, self.width)
        is_plain = self.encoding in ("utf-8", "utf-8-sig") and not self.skip_lines
        header = int(self.has_header)
        found: Iterable[Piece | Iterator[_Row]] = [self._rows()]
        if is_plain:
            found = blocks(layout, sorted(set(self.places)))
        for part in found:
            if isinstance(part, Piece):
                yield part.without_first(header)
            else:
                rest = islice(part, header, None)
                while chunk := list(islice(rest, size)):
                    yield chunk
            header = 0

    def _split_batch(self, before: int, piece: Piece) -> Batch:
        where = {place: index for index, place in enumerate(sorted(set(self.places)))}
        columns = [
            column_of(piece.columns[where[place]], replace(column, number=place + 1), self.marks)
            for column, place in zip(self.columns, self.places, strict=True)
        ]
        return self._read(before, columns, cast(Sequence[int], piece.lines), {})

    def _batch(self, before: int, chunk: Sequence[_Row]) -> Batch:
        errors: dict[int, str] = {}
        table = []
        for row, (line, cells, wrong) in enumerate(chunk):
            if not wrong and len(cells) != self.width:
                wrong = f"{len(cells)} cells instead of {self.width}"
            if wrong:
                errors[row] = f"line {line}: {wrong}"
            table.append([""] * self.width if wrong else cells)
        columns = [
            as_kind(
                replace(
                    column,
                    number=place + 1,
                    texts=Texts.of(present(cells[place], self.marks) for cells in table),
                )
            )
            for column, place in zip(self.columns, self.places, strict=True)
        ]
        return self._read(before, columns, [line for line, _, _ in chunk], errors)

    def _read(
        self, before: int, columns: Sequence[Column], lines: Sequence[int], errors: dict[int, str]
    ) -> Batch:
        notes: dict[int, str] = {}
        for column, categories in zip(columns, self.categories, strict=True):
            wrong_here = dict(column.bad)
            if self.reading["missing"] != "mean":
                absent = column.missing().nonzero().flatten().tolist()
                wrong_here |= dict.fromkeys(absent, "is missing, which training had none of")
            for row, reason in wrong_here.items():
                text = column.cell(row)
                what = "the cell" if text is None else quoted(text)
                errors.setdefault(row, f"{self.place.format(lines[row])}{column.place}: {what} {reason}")
            if column.kind == "text" and column.texts is not None:
                known = {None, *categories}
                unknown = column.texts.rows_of([text not in known for text in column.texts.unique])
                self.unknown[column.place] += len(unknown)
                for row in unknown:
                    said = f"{column.name}: {quoted(column.texts[row] or '')} was not in training"
                    notes[row] = f"{notes[row]}; {said}" if row in notes else said
        if self.dtype is None:
            inputs = encode(columns, self.categories, wide=self.wide)
        else:
            inputs = self._numbers(columns, self.dtype, lines, errors)
        if errors:
            good = [row for row in range(len(lines)) if row not in errors]
            inputs = inputs[torch.tensor(good, dtype=torch.int64)]
        return Batch(range(before + 1, before + len(lines) + 1), inputs, errors, notes)

    def _numbers(
        self, columns: Sequence[Column], dtype: str, lines: Sequence[int], errors: dict[int, str]
    ) -> Tensor:
        """The cells as ``dtype``, (N, columns); adds to ``errors``."""
        values = torch.stack([column.values for column in columns], dim=1).numpy()
        # Cells that are missing, or not numbers, are among the errors already.
        inputs, strange = convert(values, dtype, missing_allowed=True)
        inexact = ~strange & (abs(values) >= _EXACT) & (not inputs.is_floating_point())
        for row, place in np.argwhere(strange | inexact).tolist():
            column = columns[place]
            why = why_bad(values[row, place], dtype)
            if inexact[row, place]:
                why = "is too large to be read exactly: use an .npz file"
            where = f"{self.place.format(lines[row])}{column.place}"
            errors.setdefault(row, f"{where}: {column.cell(row)!r} {why}")
        return inputs

    def remarks(self) -> list[str]:
        return [
            f"{place}: {count} cell{'s' if count > 1 else ''} with a category that training did not have"
            for place, count in self.unknown.items()
            if count
        ]


def _plain_reading(width: int) -> dict[str, Any]:
    """The columns of samples that are rows of numbers, but not from a table."""
    column = {"kind": "number", "comma": False, "categories": []}
    columns = [{**column, "name": str(number), "number": number} for number in range(1, width + 1)]
    return {"named": False, "width": width, "missing": "error", "columns": columns}
