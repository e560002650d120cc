"""Tables in text files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trainctl.data import Data
from trainctl.data.files import find_file, opened
from trainctl.data.tables.columns import is_number
from trainctl.data.tables.header import has_header, may_be_header, read_columns, short_header
from trainctl.data.tables.rows import Table
from trainctl.data.tables.table import Options, make_data, marks_like
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
    keep: list[str | int] = [],  # noqa: B006
    categories: list[str | int] = [],  # noqa: B006
    missing: Literal["mean", "drop", "error"] = "mean",
    missing_marks: list[str] | None = None,
    bad_rows: Literal["auto", "error", "skip"] = "auto",
    test: Fraction | NonNegativeInt = 0.2,
    test_path: str | None = None,
    test_seed: NonNegativeInt = 0,
    delimiter: str = "auto",
    encoding: str = "auto",
    header: Literal["auto"] | bool = "auto",
    skip_lines: NonNegativeInt = 0,
    decimal: Literal["auto", ".", ","] = "auto",
    like: Mapping[str, Any] | None = None,
) -> Data:
    """A table of your own in a text file, plain or gzipped: CSV, TSV, or aligned by spaces.

    Columns of numbers are standardized, columns of text one-hot encoded. Means, deviations and categories
    come from the training split alone.

    Args:
        path: the file.
        target: the column to predict, by name or by number from 1; null is the last one.
        task: what the target is. auto: text, numbers with leading zeros, and whole numbers with at most 20
            different values, are classes; other numbers are values.
        drop: columns to leave out, by name or number.
        keep: columns to use although they number the rows, or have a text of its own in most rows.
        categories: columns to take as text, whatever is in them.
        missing: a missing input becomes the mean of the training split (mean; in a text column: no category),
            its row is left out (drop), or it is an error.
        missing_marks: cells without a value, beside empty ones; null is the usual ones (NA, N/A, #N/A, NaN,
            null, None, ?, \\N …, among numbers also - and .), [] is none.
        bad_rows: what to do with rows that have too few or too many cells, or a text in a column of numbers:
            stop (auto, error), or leave them out and say how many (skip). Rows without a target are left out
            and counted, too, but for error.
        test: rows to hold out for the test, a count or a fraction; 0 for none.
        test_path: another file with the same columns to test on, in the place of ``test``.
        test_seed: chooses the rows of ``test``.
        delimiter: one character, or tab, semicolon, pipe, comma, space; auto detects it.
        encoding: auto is the encoding of a byte order mark, else UTF-8, else cp1252.
        header: whether the first row has the names of the columns; auto detects it.
        skip_lines: lines above the table.
        decimal: the sign before decimals, . or ,; the other one may be between thousands. auto finds it,
            column by column.

    ``like`` describes the table that a model was trained on: this one gets its columns, categories and
    classes.

    Shape: inputs (N, columns) float32, which the transform makes (N, numbers + categories); targets (N,)
    int64 or (N, 1) float64.

    Raises:
        ConfigError: naming file, line and column, for data that cannot be used.
        MissingDataError: when the file is not there.
    """
    missing_marks = marks_like(like, missing_marks)
    table = read_table(
        "path", path, task, delimiter, encoding, header, skip_lines, bad_rows, decimal, missing_marks
    )
    test_table = None
    if test_path is not None:
        test_table = read_table(
            *("test_path", test_path, task, delimiter, encoding, table.named, skip_lines, bad_rows),
            *(decimal, missing_marks),
        )
    options = Options(target, task, drop, missing, bad_rows, test, test_seed, keep, categories)
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
    decimal: str = "auto",
    marks: Sequence[str] | None = None,
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
    if short := short_header(found, header):
        found[0] = (found[0][0], short)
    width = _width(found, header)
    # Only rows of the table's width count, so that a line above the table is not taken for its header.
    even, uneven = [row for row in found if len(row[1]) == width], sum(len(row[1]) != width for row in found)
    if uneven and bad_rows != "skip":
        raise _ragged(str(file), next(row for row in found if len(row[1]) != width), width, found)
    names = even[0][1] if even and (short or has_header(even, header, separator)) else None
    body = even if names is None else even[1:]
    if not body:
        raise ConfigError(
            f"{file}: {'a header without rows' if even else 'no rows'}",
            "if its only line is a row, use dataset.header=false" if even else "",
        )
    notes = []
    if separator != ",":
        notes.append(f"{delimiter_name(separator)}-separated")
    if found_encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"encoding {found_encoding}")
    if names is None:
        hint = f" (if line {even[0][0]} has names: dataset.header=true)" if may_be_header(even) else ""
        notes.append(f"no header{hint}")
    elif any(is_number(name) for name in names):
        notes.append(f"line {even[0][0]} is taken for the header")
    cells = [[row[index] for _, row in body] for index in range(width)]
    return Table(
        file=str(file),
        columns=tuple(read_columns(names, cells, separator, decimal, marks)),
        lines=[line for line, _ in body],
        named=names is not None,
        left_out=uneven,
        marks=None if marks is None else tuple(marks),
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
