"""Tables in Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from trainctl.data import Data
from trainctl.data.files import find_file
from trainctl.data.tables.columns import MISSING, Column, as_kind, number_column
from trainctl.data.tables.rows import Table
from trainctl.data.tables.table import Options, make_data
from trainctl.errors import ConfigError, StorageError
from trainctl.registry import DATASETS, Fraction, NonNegativeInt


@DATASETS.register("parquet")
def parquet(
    path: str,
    target: str | int | None = None,
    task: Literal["auto", "classification", "regression"] = "auto",
    drop: list[str | int] = [],  # noqa: B006 - read only; a list is what a config gives
    missing: Literal["mean", "drop", "error"] = "mean",
    bad_rows: Literal["error", "skip"] = "error",
    test: Fraction | NonNegativeInt = 0.2,
    test_path: str | None = None,
    test_seed: NonNegativeInt = 0,
    like: Mapping[str, Any] | None = None,
) -> Data:
    """A table of your own in a Parquet file. Needs pyarrow: pip install 'trainctl[parquet]'.

    Numbers and booleans are standardized, strings and categories one-hot encoded. Means, deviations and
    categories come from the training split alone.

    Args:
        path: the file.
        target: the column to predict, by name or by number from 1; null is the last one.
        task: what the target is. auto: text, and whole numbers with at most 20 different values, are
            classes; other numbers are values.
        drop: columns to leave out, by name or number; times and nested columns must be.
        missing: a missing input (null, NaN, or a text such as NA) becomes the mean of the training split
            (mean; in a text column: no category), its row is left out (drop), or it is an error.
        bad_rows: what to do with rows that have an infinite number or no target: stop (error), or leave them
            out and say how many (skip).
        test: rows to hold out for the test, a count or a fraction; 0 for none.
        test_path: another file with the same columns to test on, in the place of ``test``.
        test_seed: chooses the rows of ``test``.

    ``like`` describes the table that a model was trained on: this one gets its columns, categories and
    classes.

    Shape: inputs (N, columns) float32, which the transform makes (N, numbers + categories); targets (N,)
    int64 or (N, 1) float64.

    Raises:
        ConfigError: naming file, row and column, for data that cannot be used; if pyarrow is not installed.
        MissingDataError: when the file is not there.
    """
    options = Options(target, task, drop, missing, bad_rows, test, test_seed)
    table = read_table("path", path, task)
    test_table = None if test_path is None else read_table("test_path", test_path, task)
    return make_data("parquet", table, options, test_table, like)


def read_table(key: str, path: str, task: str) -> Table:
    """The table in a Parquet file; ``key`` is the argument that named it.

    Raises ConfigError for a file in another format, and if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet as reader
    except ImportError as error:
        raise ConfigError(
            "dataset=parquet: pyarrow is not installed", "install it: pip install 'trainctl[parquet]'"
        ) from error
    file = find_file("parquet", key, path, task)
    try:
        # Not read_table, which would add columns for folder names such as year=2020.
        stored = reader.ParquetFile(file).read()
    except (pyarrow.ArrowException, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{file} cannot be read as Parquet: {reason}", "a text table: dataset=csv"
        ) from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror or error}", "check the disk") from error
    if not stored.num_rows or not stored.num_columns:
        raise ConfigError(
            f"{file} has {stored.num_rows} rows and {stored.num_columns} columns", "name another file"
        )
    columns = [
        _column(name, number, values, pyarrow)
        for number, (name, values) in enumerate(zip(stored.column_names, stored.columns, strict=True), 1)
    ]
    return Table(str(file), tuple(columns), range(1, stored.num_rows + 1), row_word="row")


def _column(name: str, number: int, values: Any, pyarrow: Any) -> Column:
    """A column of the file; ``unusable`` unless it has numbers or text."""
    types, kind = pyarrow.types, values.type
    if types.is_dictionary(kind):
        kind = kind.value_type
        values = values.cast(kind)
    if types.is_boolean(kind):
        flags = [None if value is None else str(value) for value in values.to_pylist()]
        return as_kind(Column(name, number, "flag", texts=flags))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Column(name, number, "text", texts=[_present(value) for value in values.to_pylist()])
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        # A copy, because torch requires writable arrays.
        numbers = values.cast(pyarrow.float64(), safe=False).to_numpy().copy()
        return number_column(name, number, torch.from_numpy(numbers))
    return Column(name, number, "text", unusable=str(values.type))


def _present(text: str | None) -> str | None:
    stripped = "" if text is None else text.strip()
    return None if stripped.lower() in MISSING else stripped
