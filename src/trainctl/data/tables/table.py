"""A table of typed columns as a dataset: what ``csv`` and ``parquet`` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.data.tables.columns import Column
from trainctl.data.tables.rows import (
    Table,
    choose_columns,
    find_column,
    match_columns,
    refuse_useless,
    usable_rows,
)
from trainctl.data.tables.target import Target, as_labels, encode_target, read_target
from trainctl.data.tables.transform import TableTransform
from trainctl.data.types import Data, Split
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


def make_data(
    name: str,
    table: Table,
    options: Options,
    test_table: Table | None = None,
    like: Mapping[str, Any] | None = None,
) -> Data:
    """The dataset that a table makes; its test split from a second table, or held out of the first.

    Categories are numbered by the rows that are not test rows: that decides the width. Which of them count,
    and every mean and deviation, is found by ``fit`` in the training split alone. ``like``, the ``reading``
    of a table that a model was trained on, says instead which columns, categories and classes there are.

    Shape: inputs (N, columns) float32, targets (N,) int64 or (N, 1) float32.
    """
    if like is not None and like.get("kind") == "table":
        inputs, goal = _columns_like(table, options.target, like)
    else:
        like = None
        inputs, goal = choose_columns(table, options.target, options.drop)
        if options.task == "classification":
            goal = as_labels(goal)
    rows, left_out = usable_rows(table, inputs, goal, options.missing, options.bad_rows)
    kept_inputs, kept_goal = [column.keep(rows) for column in inputs], goal.keep(rows)
    if like is None:
        refuse_useless(table, kept_inputs)
        target = read_target(table.file, kept_goal, options.task)
    else:
        target = Target(like["task"], tuple(like["classes"]), "as in training")
    lines = [table.lines[row] for row in rows.tolist()]
    targets = encode_target(table.file, lines, table.row_word, kept_goal, target)

    train_rows, test_rows = (torch.arange(len(rows)), None)
    if test_table is None:
        train_rows, test_rows = split_rows(len(rows), options.test, options.test_seed)
    if like is None:
        categories = [_categories(column, train_rows) for column in kept_inputs]
    else:
        categories = [number_categories(each["categories"]) for each in like["columns"]]
    matrix = encode(kept_inputs, categories)
    test = Split(matrix[test_rows], targets[test_rows]) if test_rows is not None else None
    if test_table is not None:
        *others, other_goal = match_columns(test_table, [*inputs, goal], table)
        rows, left_out_there = usable_rows(test_table, others, other_goal, options.missing, options.bad_rows)
        lines = [test_table.lines[row] for row in rows.tolist()]
        test = Split(
            encode([column.keep(rows) for column in others], categories),
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
        f"target {goal.name}: {target.why}"
        + (" and so asked" if options.task != "auto" and not like else ""),
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
        reading={
            "kind": "table",
            "task": target.task,
            "classes": list(target.classes),
            "named": table.named,
            "width": max(column.number for column in table.columns),
            "missing": options.missing,
            "columns": [
                {**_described(column), "categories": list(codes)}
                for column, codes in zip(inputs, categories, strict=True)
            ],
            "target": _described(goal),
        },
    )


def _described(column: Column) -> dict[str, Any]:
    return {"name": column.name, "number": column.number, "kind": column.kind, "comma": column.comma}


def column_like(described: Mapping[str, Any]) -> Column:
    """A column without cells, of the kind that a ``reading`` says."""
    return Column(described["name"], described["number"], described["kind"], comma=described["comma"])


def _columns_like(
    table: Table, target: str | int | None, like: Mapping[str, Any]
) -> tuple[list[Column], Column]:
    """The input columns and the target column of a table, read as those that a model was trained on."""
    wanted = [column_like(each) for each in (*like["columns"], like["target"])]
    if target is not None:
        found = find_column(table, "target", target)
        wanted[-1] = replace(wanted[-1], name=found.name, number=found.number)
    trained_on = Table("the training data", (), (), named=like["named"])
    *inputs, goal = match_columns(table, wanted, trained_on)
    return inputs, goal


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
    return number_categories(sorted(text for text in texts if text is not None))


def number_categories(texts: Sequence[str]) -> dict[str, int]:
    """The code of each category: its place."""
    return {text: code for code, text in enumerate(texts)}


def encode(columns: Sequence[Column], categories: Sequence[Mapping[str, int]]) -> Tensor:
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


__all__ = ["Options", "column_like", "encode", "make_data", "number_categories", "split_rows"]
