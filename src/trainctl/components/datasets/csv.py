"""Tables in text files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trainctl.data import Data
from trainctl.data.files import find_file, opened
from trainctl.data.tables.columns import MISSING, Column, read_column
from trainctl.data.tables.rows import Table
from trainctl.data.tables.table import Options, make_data
from trainctl.data.tables.text import choose_delimiter, decode, delimiter_name, read_rows
from trainctl.errors import ConfigError
from trainctl.registry import DATASETS, Fraction, NonNegativeInt

_SAMPLE_ROWS = 200
_Rows = list[tuple[int, list[str]]]


@DATASETS.register("csv")
def csv(
    path: str,
    target: str | int | None = None,
    task: Literal["auto", "classification", "regression"] = "auto",
    drop: list[str | int] = [],  # noqa: B006 - read only; a list is what a config gives
    missing: Literal["mean", "drop", "error"] = "mean",
    bad_rows: Literal["error", "skip"] = "error",
    test: Fraction | NonNegativeInt = 0.2,
    test_path: str | None = None,
    test_seed: NonNegativeInt = 0,
    delimiter: str = "auto",
    encoding: str = "auto",
    header: Literal["auto"] | bool = "auto",
    skip_lines: NonNegativeInt = 0,
    like: Mapping[str, Any] | None = None,
) -> Data:
    """A table of your own in a text file, plain or gzipped: CSV, TSV, or aligned by spaces.

    Columns of numbers are standardized, columns of text one-hot encoded. Means, deviations and categories
    come from the training split alone.

    Args:
        path: the file.
        target: the column to predict, by name or by number from 1; null is the last one.
        task: what the target is. auto: text, and whole numbers with at most 20 different values, are
            classes; other numbers are values.
        drop: columns to leave out, by name or number.
        missing: a missing input ("", NA, N/A, NaN, null, None, ?) becomes the mean of the training split
            (mean; in a text column: no category), its row is left out (drop), or it is an error.
        bad_rows: what to do with rows that have too few or too many cells, a text in a column of numbers, or
            no target: stop (error), or leave them out and say how many (skip).
        test: rows to hold out for the test, a count or a fraction; 0 for none.
        test_path: another file with the same columns to test on, in the place of ``test``.
        test_seed: chooses the rows of ``test``.
        delimiter: one character, or tab, semicolon, pipe, comma, space; auto detects it.
        encoding: auto is the encoding of a byte order mark, else UTF-8, else cp1252.
        header: whether the first row has the names of the columns; auto detects it.
        skip_lines: lines above the table.

    ``like`` describes the table that a model was trained on: this one gets its columns, categories and
    classes.

    Shape: inputs (N, columns) float32, which the transform makes (N, numbers + categories); targets (N,)
    int64 or (N, 1) float64.

    Raises:
        ConfigError: naming file, line and column, for data that cannot be used.
        MissingDataError: when the file is not there.
    """
    table = read_table("path", path, task, delimiter, encoding, header, skip_lines, bad_rows)
    test_table = None
    if test_path is not None:
        test_table = read_table(
            "test_path", test_path, task, delimiter, encoding, table.named, skip_lines, bad_rows
        )
    options = Options(target, task, drop, missing, bad_rows, test, test_seed)
    return make_data("csv", table, options, test_table, like)


def read_table(
    key: str,
    path: str,
    task: str,
    delimiter: str,
    encoding: str,
    header: Literal["auto"] | bool,
    skip_lines: int,
    bad_rows: str,
) -> Table:
    """The table in a text file; ``key`` is the argument that named it.

    Raises ConfigError naming file, line and column for a row with too few or too many cells.
    """
    file = find_file("csv", key, path, task)
    with opened(file) as (content, _):
        text, found_encoding = decode(content.read(), str(file), encoding)
    if not text.strip():
        raise ConfigError(f"{file} is empty", f"name another file with dataset.{key}=FILE")
    separator = choose_delimiter(text, str(file), delimiter, skip_lines)
    found = read_rows(text, str(file), separator, skip_lines)
    width = _width(found, header)
    # Only rows of the table's width count, so that a line above the table is not taken for its header.
    even, uneven = [row for row in found if len(row[1]) == width], sum(len(row[1]) != width for row in found)
    if uneven and bad_rows == "error":
        raise _ragged(str(file), next(row for row in found if len(row[1]) != width), width, found)
    names = even[0][1] if even and has_header(even, header, separator) else None
    body = even if names is None else even[1:]
    if not body:
        raise ConfigError(
            f"{file}: {'a header without rows' if even else 'no rows'}",
            "if its only line is a row, use dataset.header=false" if even else "",
        )
    commas = separator != ","
    named = unique_names(names, width)
    columns = [
        read_column(named[index], index + 1, [cells[index] for _, cells in body], commas=commas)
        for index in range(width)
    ]
    notes = []
    if separator != ",":
        notes.append(f"{delimiter_name(separator)}-separated")
    if any(column.comma for column in columns):
        notes.append("decimal commas")
    if found_encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"encoding {found_encoding}")
    if names is None:
        notes.append("no header")
    elif any(_is_number(name, commas) for name in names):
        notes.append(f"line {even[0][0]} is taken for the header")
    if names is not None and not names[0] and _counts_rows(columns[0]):
        columns = columns[1:]
        notes.append("the first column numbers the rows and is left out")
    return Table(
        file=str(file),
        columns=tuple(columns),
        lines=[line for line, _ in body],
        named=names is not None,
        left_out=uneven,
        notes=tuple(notes),
    )


def _width(found: _Rows, header: Literal["auto"] | bool) -> int:
    """The number of cells in a row: the header's if one is required, else that of most rows."""
    if header is True and found:
        return len(found[0][1])
    widths = Counter(len(cells) for _, cells in found)
    return widths.most_common(1)[0][0] if widths else 0


def _ragged(file: str, row: tuple[int, list[str]], width: int, found: _Rows) -> ConfigError:
    line, cells = row
    if row is found[0]:
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


def has_header(even: _Rows, header: Literal["auto"] | bool, separator: str) -> bool:
    """Is the first row the header? Names differ from the cells below them: in kind, or at least in text."""
    if header != "auto":
        return header
    first, below = even[0][1], [cells for _, cells in even[1 : _SAMPLE_ROWS + 1]]
    if not below:
        return not any(_is_number(cell, separator != ",") for cell in first)
    names = values = 0
    for index, cell in enumerate(first):
        column = read_column("", 0, [cells[index] for cells in below], commas=separator != ",")
        if column.kind == "text" or column.missing().all():
            continue
        if cell.lower() in MISSING:
            continue
        if _is_number(cell, separator != ",") or (
            column.kind == "flag" and cell.lower() in ("true", "false")
        ):
            values += 1
        else:
            names += 1
    if names or values:
        return names >= values
    # Text only: a name does not occur as a cell below.
    different = len(set(first)) == len(first) and all(first)
    return different and not any(cell == cells[index] for index, cell in enumerate(first) for cells in below)


def _is_number(cell: str, commas: bool) -> bool:
    column = read_column("", 0, [cell], commas=commas)
    return column.kind == "number" and not bool(column.missing().any())


def unique_names(names: Sequence[str] | None, width: int) -> list[str]:
    """A name for each column: the header's, the number if that is blank, ``a.2`` for a second ``a``."""
    if names is None:
        return [str(number) for number in range(1, width + 1)]
    taken: Counter[str] = Counter()
    unique = []
    for number, name in enumerate(names, 1):
        name = name or str(number)
        taken[name] += 1
        unique.append(name if taken[name] == 1 else f"{name}.{taken[name]}")
    return unique


def _counts_rows(column: Column) -> bool:
    """Does it count 0, 1, 2 … or 1, 2, 3 …, like row names that other programs write?"""
    if column.kind != "number" or column.bad or len(column.values) < 2:
        return False
    return column.values[0] in (0, 1) and bool((column.values.diff() == 1).all())
