"""Tables in text files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from trainctl.data import Data
from trainctl.data.files import find_file
from trainctl.data.tables.cache import cached
from trainctl.data.tables.table import Options, Prepared, marks_like, prepare
from trainctl.data.tables.text_file import TextOptions, read_table
from trainctl.registry import DATASETS, Fraction, NonNegativeInt


@DATASETS.register("csv")
def csv(
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
    delimiter: str = "auto",
    encoding: str = "auto",
    header: Literal["auto"] | bool = "auto",
    skip_lines: NonNegativeInt = 0,
    decimal: Literal["auto", ".", ","] = "auto",
    dates: Literal["auto", "day_first", "month_first"] = "auto",
    cache: bool = True,
    like: Mapping[str, Any] | None = None,
) -> Data:
    """A table of your own in a text file, plain or gzipped: CSV, TSV, or aligned by spaces.

    Columns of numbers are standardized, columns of text one-hot encoded. Means, deviations and categories
    come from the training split alone.

    Args:
        path: the file.
        target: the column to predict, by name or by number from 1; null is the last one;
            or several, as a list.
        task: what the target is. auto: text, numbers with leading zeros, and whole numbers with at most 20
            different values, are classes; other numbers are values. Of several columns: labels where all
            hold 0 and 1 only, else values.
        separator: the sign between the labels of a text such as a;b, which makes the target one of several
            labels a row; an empty cell has none.
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
        dates: the order of day and month where 3/4/2024 has two readings; auto finds it.
        cache: keep what was read of a large file, beside it or in the user's cache folder, for later runs.

    ``like`` describes the table that a model was trained on: this one gets its columns, categories and
    classes.

    Shape: inputs (N, columns) float32, which the transform makes (N, numbers + categories); targets (N,)
    int64 or (N, outputs) float64.

    Raises:
        ConfigError: naming file, line and column, for data that cannot be used.
        MissingDataError: when the file is not there.
    """
    missing_marks = marks_like(like, missing_marks)
    given = dict(locals())  # all arguments
    text = TextOptions(delimiter, encoding, header, skip_lines, bad_rows, decimal, missing_marks)
    files = [find_file("csv", "path", path, task)]
    if test_path is not None:
        files.append(find_file("csv", "test_path", test_path, task))
    options = Options(
        target, task, drop, missing, bad_rows, test, test_seed, keep, categories, separator, dates
    )

    def read() -> Prepared:
        table = read_table("path", files[0], text)
        test_table = None
        if test_path is not None:
            test_table = read_table("test_path", files[1], replace(text, header=table.named))
        return prepare("csv", table, options, test_table, like)

    return cached(files, {"dataset": "csv", **given}, read)
