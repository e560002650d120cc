"""A table of typed columns as a dataset: what ``csv`` and ``parquet`` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainctl.data import Data, Split
from trainctl.datasets._table_columns import Column
from trainctl.datasets._table_rows import Table, choose_columns, match_columns, refuse_useless, usable_rows
from trainctl.datasets._table_target import as_labels, encode_target, read_target
from trainctl.datasets._table_transform import TableTransform
from trainctl.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """How a table becomes a dataset; the arguments of the same names are described there."""

    target: str | int | None
    task: str
    drop: Sequence[str | int]
    missing: str
    bad_rows: str
    test: float | int
    test_seed: int


def make_data(name: str, table: Table, options: Options, test_table: Table | None = None) -> Data:
    """The dataset that a table makes; its test split from a second table, or held out of the first.

    Categories are numbered by the rows that are not test rows: that decides the width. Which of them count,
    and every mean and deviation, is found by ``fit`` in the training split alone.

    Shape: inputs (N, columns) float32, targets (N,) int64 or (N, 1) float32.
    """
    inputs, goal = choose_columns(table, options.target, options.drop)
    if options.task == "classification":
        goal = as_labels(goal)
    rows, left_out = usable_rows(table, inputs, goal, options.missing, options.bad_rows)
    kept_inputs, kept_goal = [column.keep(rows) for column in inputs], goal.keep(rows)
    refuse_useless(table, kept_inputs)
    target = read_target(table.file, kept_goal, options.task)
    lines = [table.lines[row] for row in rows.tolist()]
    targets = encode_target(table.file, lines, table.row_word, kept_goal, target)

    train_rows, test_rows = (torch.arange(len(rows)), None)
    if test_table is None:
        train_rows, test_rows = split_rows(len(rows), options.test, options.test_seed)
    categories = [_categories(column, train_rows) for column in kept_inputs]
    matrix = _matrix(kept_inputs, categories)
    test = Split(matrix[test_rows], targets[test_rows]) if test_rows is not None else None
    if test_table is not None:
        *others, other_goal = match_columns(test_table, [*inputs, goal], table)
        rows, left_out_there = usable_rows(test_table, others, other_goal, options.missing, options.bad_rows)
        lines = [test_table.lines[row] for row in rows.tolist()]
        test = Split(
            _matrix([column.keep(rows) for column in others], categories),
            encode_target(test_table.file, lines, test_table.row_word, other_goal.keep(rows), target),
        )
        left_out = "; ".join(filter(None, [left_out, f"test from {test_table.file}", left_out_there]))

    widths = [len(each) for each in categories]
    texts = sum(width > 0 for width in widths)

    def fit(train: Split) -> nn.Module:
        return TableTransform(train.inputs, widths)

    said = [
        Path(table.file).name,
        *table.notes,
        f"{len(inputs) - texts} number columns" + (f" and {texts} of text" if texts else ""),
        f"target {goal.name}: {target.why}" + (" and so asked" if options.task != "auto" else ""),
        left_out,
    ]
    return Data(
        name=name,
        task=target.task,
        train=Split(matrix[train_rows], targets[train_rows]),
        test=test,
        input_shape=(len(inputs) - texts + sum(widths),),
        output_size=len(target.classes) or 1,
        transform=nn.Identity(),
        fit=fit,
        classes=target.classes,
        note="; ".join(filter(None, said)),
    )


def split_rows(count: int, test: float | int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Row numbers to train and validate on, and to test on, both in order; None when ``test`` is 0.

    Raises ConfigError when ``test`` (a count, or a fraction below 1) leaves one of them empty.
    """
    size = test if isinstance(test, int) else round(test * count)
    if size == 0 and not test:
        return torch.arange(count), None
    if not 0 < size < count:
        raise ConfigError(
            f"dataset.test={test}: holds {size} of {count} rows out for the test",
            "give another count or fraction, or 0 for no test",
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[size:].sort().values, order[:size].sort().values


def _categories(column: Column, rows: Tensor) -> dict[str, int]:
    """Codes of the texts in these rows, in alphabetical order; none for a column of numbers."""
    if column.kind != "text" or column.texts is None:
        return {}
    texts = {column.texts[row] for row in rows.tolist()}
    return {text: code for code, text in enumerate(sorted(text for text in texts if text is not None))}


def _matrix(columns: Sequence[Column], categories: Sequence[dict[str, int]]) -> Tensor:
    """(N, columns) float32: numbers, codes, NaN for what is missing or has no code."""
    return torch.stack(
        [
            torch.tensor([codes.get(text or "", torch.nan) for text in column.texts or ()])
            if column.kind == "text"
            else column.values.to(torch.float32)
            for column, codes in zip(columns, categories, strict=True)
        ],
        dim=1,
    )


__all__ = ["Options", "make_data", "split_rows"]
