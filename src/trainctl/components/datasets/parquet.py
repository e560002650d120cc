"""Tables in Parquet files."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy
import pyarrow
from pyarrow import parquet as reader

from trainctl.data import Data
from trainctl.data.files import find_file
from trainctl.data.tables.arrow import arrow_column
from trainctl.data.tables.cache import cached
from trainctl.data.tables.columns import times_in
from trainctl.data.tables.header import unique_names, why_no_input
from trainctl.data.tables.rows import Table
from trainctl.data.tables.table import Options, Prepared, marks_like, prepare
from trainctl.errors import ConfigError, StorageError
from trainctl.registry import DATASETS, Fraction, NonNegativeInt

_BUFFER = 1 << 20
"""Bytes of a column that are read from the file at once, instead of all of a group of rows."""


@DATASETS.register("parquet")
def parquet(
    path: str,
    target: str | int | list[str | int] | None = None,
    task: Literal["auto", "classification", "regression", "multilabel"] = "auto",
    separator: str | None = None,
    drop: list[str | int] = [],  # noqa: B006 - read only; a list is what a config gives
    keep: list[str | int] = [],  # noqa: B006
    categories: list[str | int] = [],  # noqa: B006
    missing: Literal["mean", "drop", "error"] = "mean",
    missing_marks: list[str] | None = None,
    bad_rows: Literal["auto", "error", "skip"] = "auto",
    test: Fraction | NonNegativeInt = 0.2,
    test_path: str | None = None,
    test_seed: NonNegativeInt = 0,
    dates: Literal["auto", "day_first", "month_first"] = "auto",
    cache: bool = True,
    like: Mapping[str, Any] | None = None,
) -> Data:
    """A table of your own in a Parquet file.

    Numbers and booleans are standardized, strings and categories one-hot encoded. Means, deviations and
    categories come from the training split alone.

    Args:
        path: the file.
        target: the column to predict, by name or by number from 1; null is the last one;
            or several, as a list.
        task: what the target is. auto: text, and whole numbers with at most 20 different values, are
            classes; other numbers are values. Of several columns: labels where all hold 0 and 1 only, else
            values.
        separator: the sign between the labels of a text such as a;b, which makes the target one of several
            labels a row; an empty cell has none.
        drop: columns to leave out, by name or number; nested columns must be.
        keep: columns to use although they number the rows, are the index of a data frame, or have a text of
            its own in most rows.
        categories: columns to take as text, whatever is in them.
        missing: a missing input (null, NaN, or a text such as NA) becomes the mean of the training split
            (mean; in a text column: no category), its row is left out (drop), or it is an error.
        missing_marks: texts that stand for a missing value; null is the usual ones, [] is none.
        bad_rows: what to do with rows that have an infinite number: stop (auto, error), or leave them out and
            say how many (skip). Rows without a target are left out and counted, too, but for error.
        test: rows to hold out for the test, a count or a fraction; 0 for none.
        test_path: another file with the same columns to test on, in the place of ``test``.
        test_seed: chooses the rows of ``test``.
        dates: the order of day and month in texts such as 3/4/2024; auto finds it.
        cache: keep what was read of a large file, beside it or in the user's cache folder, for later runs.

    ``like`` describes the table that a model was trained on: this one gets its columns, categories and
    classes.

    Shape: inputs (N, columns) float32, which the transform makes (N, numbers + categories); targets (N,)
    int64 or (N, outputs) float64.

    Raises:
        ConfigError: naming file, row and column, for data that cannot be used.
        MissingDataError: when the file is not there.
    """
    missing_marks = marks_like(like, missing_marks)
    given = dict(locals())  # all arguments
    options = Options(
        target, task, drop, missing, bad_rows, test, test_seed, keep, categories, separator, dates
    )
    files = [find_file("parquet", "path", path, task)]
    if test_path is not None:
        files.append(find_file("parquet", "test_path", test_path, task))

    def read() -> Prepared:
        table, *others = [read_table(file, missing_marks) for file in files]
        return prepare("parquet", table, options, others[0] if others else None, like)

    return cached(files, {"dataset": "parquet", **given}, read)


def read_table(file: Path, marks: Sequence[str] | None = None) -> Table:
    """The table in a Parquet file.

    Raises ConfigError for a file in another format.
    """
    try:
        # Not read_table, which would add columns for folder names such as year=2020.
        with reader.ParquetFile(file, buffer_size=_BUFFER) as stored:
            schema, rows = stored.schema_arrow, stored.metadata.num_rows
            read = _read_columns(stored, schema, rows)
    except (pyarrow.ArrowException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{file} cannot be read as Parquet: {reason}", "a text table: dataset=csv"
        ) from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror or error}", "check the disk") from error
    if not rows or not len(schema):
        raise ConfigError(f"{file} has {rows} rows and {len(schema)} columns", "name another file")
    indexes = _index_columns(schema.pandas_metadata)
    names = unique_names([unicodedata.normalize("NFC", name) for name in schema.names], len(schema))
    columns = []
    for number, (name, given, values) in enumerate(zip(names, schema.names, read, strict=True), 1):
        column = arrow_column(name, number, values, marks)
        if column.kind == "text" and column.texts is not None:
            column = times_in(column)
        why = "the index of a data frame" if given in indexes else why_no_input(column, given)
        columns.append(replace(column, no_input=why))
    return Table(
        file=str(file),
        columns=tuple(columns),
        lines=range(1, rows + 1),
        row_word="row",
        marks=None if marks is None else tuple(marks),
    )


def _read_columns(stored: Any, schema: Any, rows: int) -> list[Any]:
    """The columns: floats as arrays of float64, others as arrow's.

    One column of a row group is read at a time: arrow would hold the whole table beside its copy.
    """
    types = pyarrow.types
    columns: list[Any] = [numpy.empty(rows) if types.is_floating(field.type) else [] for field in schema]
    # A name with a point also means a part of a nested column, and a name may be there twice.
    by_name = len(set(schema.names)) == len(schema.names) and not any("." in name for name in schema.names)
    start = 0
    for number in range(stored.num_row_groups):
        end = start + stored.metadata.row_group(number).num_rows
        whole = None if by_name else stored.read_row_group(number)
        for index, (name, column) in enumerate(zip(schema.names, columns, strict=True)):
            if whole is None:
                values = stored.read_row_group(number, [name], use_threads=False).column(0)
            else:
                values = whole.column(index)
            if isinstance(column, list):
                column.extend(values.chunks)
            else:
                floats = values.cast(pyarrow.float64(), safe=False)
                column[start:end] = floats.to_numpy(zero_copy_only=False)
        start = end
    return [
        pyarrow.chunked_array(column, field.type) if isinstance(column, list) else column
        for column, field in zip(columns, schema, strict=True)
    ]


def _index_columns(metadata: Any) -> set[str]:
    """The names of the columns that are the index of the data frame, which it says itself."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("index_columns"), list):
        return set()
    return {each for each in metadata["index_columns"] if isinstance(each, str)}
