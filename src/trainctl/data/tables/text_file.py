"""Text files as tables: where the header and the rows are, and how each column is read."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from trainctl.data.files import opened
from trainctl.data.tables.columns import Column, is_number, read_column
from trainctl.data.tables.header import has_header, may_be_header, read_columns, short_header
from trainctl.data.tables.rows import Table
from trainctl.data.tables.text import choose_delimiter, decode, delimiter_name, find_encoding, read_rows, rows
from trainctl.data.tables.texts import Texts
from trainctl.errors import ConfigError

_LARGE = 1 << 21
"""Files of more bytes are read piece by piece, with pyarrow."""
_START = 1 << 21
_SAMPLE_ROWS, _MANY_ROWS = 201, 1000
_Row = tuple[int, list[str]]
Read = Callable[[int, str, str], Column]
"""The column at a position, with its name and the decimal sign of the file."""


@dataclass(frozen=True)
class TextOptions:
    """The arguments of ``csv`` with the same names; ``marks`` are its ``missing_marks``."""

    delimiter: str
    encoding: str
    header: Literal["auto"] | bool
    skip_lines: int
    bad_rows: str
    decimal: str
    marks: Sequence[str] | None


def read_table(key: str, file: Path, options: TextOptions) -> Table:
    """The table in a text file; ``key`` is the argument that named it.

    Raises ConfigError naming file, line and column for a row with too few or too many cells.
    """
    if file.stat().st_size > _LARGE:
        table = _read_large(file, options)
        if table is not None:
            return table
    with opened(file) as (content, _):
        text, encoding = decode(content.read(), str(file), options.encoding)
    if not text.strip():
        raise ConfigError(f"{file} is empty", f"name another file with dataset.{key}=FILE")
    separator = choose_delimiter(text, str(file), options.delimiter, options.skip_lines)
    found = read_rows(text, str(file), separator, options.skip_lines)
    if short := short_header(found, options.header):
        found[0] = (found[0][0], short)
    width = _width(found, options.header)
    # Only rows of the table's width count, so that a line above the table is not taken for its header.
    even, uneven = (
        [row for row in found if len(row[1]) == width],
        [row for row in found if len(row[1]) != width],
    )
    if uneven and options.bad_rows != "skip":
        raise _ragged(str(file), uneven[0], width, is_first=uneven[0] is found[0])
    names = even[0][1] if even and (short or has_header(even, options.header, separator)) else None
    body = even if names is None else even[1:]
    if not body:
        raise ConfigError(
            f"{file}: {'a header without rows' if even else 'no rows'}",
            "if its only line is a row, use dataset.header=false" if even else "",
        )

    def read(index: int, name: str, decimal: str) -> Column:
        cells = Texts.of(row[index] for _, row in body)
        return read_column(name, index + 1, cells, marks=options.marks, decimal=decimal, delimiter=separator)

    lines = [line for line, _ in body]
    return _table(file, options, separator, encoding, even, names, read, width, lines, len(uneven))


def _read_large(file: Path, options: TextOptions) -> Table | None:
    """The table in a large file; None if what its rows are cannot be told from its beginning."""
    from trainctl.data.tables.bulk import read_bulk
    from trainctl.data.tables.pieces import Layout, Utf8

    encoding = options.encoding
    if encoding == "auto":
        with opened(file) as (content, _):
            encoding = find_encoding(content, str(file))
    with opened(file) as (content, _):
        source = Utf8(content, Layout(file, encoding, ""))
        start, is_whole = source.take(_START), not source.take(1)
    start = start if is_whole else start[: start.rfind(b"\n") + 1]
    if not start.strip() or start.count(b"\r") != start.count(b"\r\n"):
        return None
    text, _ = decode(start, str(file), "utf-8")
    separator = choose_delimiter(text, str(file), options.delimiter, options.skip_lines)
    # A row at the end of the text may go on behind it.
    found = [*islice(rows(io.StringIO(text, newline=""), separator, options.skip_lines), _MANY_ROWS)]
    found = found if is_whole or len(found) == _MANY_ROWS else found[:-1]
    sample: list[_Row] = [(line, cells) for line, cells, wrong in found if not wrong]
    width = _width(sample, options.header)
    even = [row for row in sample if len(row[1]) == width][:_SAMPLE_ROWS]
    if len(sample) < len(found) or len(even) < 2 or len(sample[0][1]) == width - 1:
        return None
    names = even[0][1] if has_header(even, options.header, separator) else None
    first = even[0] if names is None else even[1]
    above = [row for row in sample if row[0] < first[0] and len(row[1]) != width]
    offset = sum(map(len, start.splitlines(keepends=True)[: first[0] - 1])) if first[0] > 1 else 0
    bulk = read_bulk(Layout(file, encoding, separator, width, offset, first[0] - 1), options.marks)
    bulk.uneven.update(len(cells) for _, cells in above)
    if options.header is not True and bulk.uneven and bulk.uneven.most_common(1)[0][1] >= len(bulk.lines):
        return None
    if bulk.uneven and options.bad_rows != "skip":
        row = above[0] if above else bulk.first_uneven
        assert row is not None
        raise _ragged(str(file), row, width, is_first=row[0] == sample[0][0])

    def read(index: int, name: str, decimal: str) -> Column:
        return bulk.readers[index].column(name, decimal, separator)

    uneven = bulk.uneven.total()
    return _table(file, options, separator, encoding, even, names, read, width, bulk.lines, uneven)


def _table(
    file: Path,
    options: TextOptions,
    separator: str,
    encoding: str,
    even: Sequence[_Row],
    names: Sequence[str] | None,
    read: Read,
    width: int,
    lines: Sequence[int],
    uneven: int,
) -> Table:
    notes = []
    if separator != ",":
        notes.append(f"{delimiter_name(separator)}-separated")
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"encoding {encoding}")
    if names is None:
        hint = f" (if line {even[0][0]} has names: dataset.header=true)" if may_be_header(even) else ""
        notes.append(f"no header{hint}")
    elif any(is_number(name) for name in names):
        notes.append(f"line {even[0][0]} is taken for the header")
    return Table(
        file=str(file),
        columns=tuple(read_columns(names, width, read, options.decimal)),
        lines=lines,
        named=names is not None,
        left_out=uneven,
        marks=None if options.marks is None else tuple(options.marks),
        notes=tuple(notes),
    )


def _width(found: Sequence[_Row], header: Literal["auto"] | bool) -> int:
    """The number of cells in a row: the header's if one is required, else that of most rows."""
    if header is True and found:
        return len(found[0][1])
    widths = Counter(len(cells) for _, cells in found)
    return widths.most_common(1)[0][0] if widths else 0


def _ragged(file: str, row: _Row, width: int, *, is_first: bool) -> ConfigError:
    line, cells = row
    if is_first:
        return ConfigError(
            f"{file}, line {line}: {len(cells)} cells from {cells[0]!r} to {cells[-1]!r}, where most lines"
            f" have {width}",
            f"if it is above the table, leave it out with dataset.skip_lines={line}",
        )
    if len(cells) > width:
        what = f"column {width + 1}: {cells[width]!r} is one cell too many, the table has {width} columns"
    else:
        what = f"column {len(cells) + 1}: there is no cell after {cells[-1]!r}, the table has {width} columns"
    return ConfigError(
        f"{file}, line {line}, {what}",
        'quote cells that contain the delimiter ("a, b"), or leave such rows out with dataset.bad_rows=skip',
    )
