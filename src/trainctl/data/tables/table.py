"""A table of typed columns as a dataset, for ``csv`` and ``parquet``."""

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
from trainctl.data.tables.target import Target, encode_target, read_target
from trainctl.data.tables.transform import TableTransform
from trainctl.data.types import Data, Split, split_rows


@dataclass(frozen=True)
class Options:
    """The arguments of ``csv`` and ``parquet`` with the same names."""

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
    """A table as a dataset; its test split comes from a second table, or is held out of the first.

    The rows that are not test rows decide the categories, and so the width. ``fit`` finds the categories
    that occur, the means and the deviations in the training split alone. With ``like``, the ``reading`` of a
    table that a model was trained on, columns, categories and classes are those of that table.

    Shape: inputs (N, columns) float32, targets (N,) int64 or (N, 1) float64.
    """
    if like is not None and like.get("kind") != "table":
        like = None
    inputs, goal = _columns(table, options, like)
    rows, left_out = usable_rows(table, inputs, goal, options.missing, options.bad_rows)
    train_rows, test_rows = torch.arange(len(rows)), None
    if test_table is None:
        train_rows, test_rows = split_rows(len(rows), options.test, options.test_seed)
    if like is None:
        kept = [column.keep(rows) for column in inputs]
        refuse_useless(table, kept)
        target = read_target(table.file, goal.keep(rows), options.task)
        categories = [_categories(column.keep(train_rows)) for column in kept]
        asked = f" and dataset.task={options.task}" if options.task != "auto" else ""
    else:
        target, asked = Target(like["task"], tuple(like["classes"]), "as in training"), ""
        categories = [each["categories"] for each in like["columns"]]

    def samples(table: Table, inputs: Sequence[Column], goal: Column, rows: Tensor) -> Split:
        kept = [column.keep(rows) for column in inputs]
        return Split(encode(kept, categories), encode_target(table, rows, goal, target))

    whole = samples(table, inputs, goal, rows)
    test = None if test_rows is None else whole[test_rows]
    if test_table is not None:
        *others, other_goal = match_columns(test_table, [*inputs, goal], table)
        rows, left_out_there = usable_rows(test_table, others, other_goal, options.missing, options.bad_rows)
        test = samples(test_table, others, other_goal, rows)
        left_out = "; ".join(filter(None, [left_out, f"test from {test_table.file}", left_out_there]))

    widths = [len(each) for each in categories]
    texts = sum(width > 0 for width in widths)
    columns = f"{len(inputs) - texts} number columns" + (f" and {texts} of text" if texts else "")
    why = f"target {goal.name}: {target.why}{asked}"
    return Data(
        name=name,
        task=target.task,
        train=whole[train_rows],
        test=test,
        input_shape=(len(inputs) - texts + sum(widths),),
        output_size=len(target.classes) or 1,
        transform=nn.Identity(),
        fit=lambda train: TableTransform(train.inputs, widths),
        classes=target.classes,
        note="; ".join(filter(None, [Path(table.file).name, *table.notes, columns, why, left_out])),
        reading={
            "kind": "table",
            "task": target.task,
            "classes": list(target.classes),
            "named": table.named,
            "width": max(column.number for column in table.columns),
            "missing": options.missing,
            "columns": [
                {**_described(column), "categories": texts}
                for column, texts in zip(inputs, categories, strict=True)
            ],
            "target": _described(goal),
        },
    )


def _columns(table: Table, options: Options, like: Mapping[str, Any] | None) -> tuple[list[Column], Column]:
    """The input columns and the target column: as the options say, or as a model was trained on them."""
    if like is None:
        inputs, goal = choose_columns(table, options.target, options.drop)
        if options.task == "classification" and goal.bad and goal.texts is not None:
            # Some of its cells are not numbers: all of them are names of classes.
            goal = replace(goal, kind="text", values=torch.empty(0, dtype=torch.float64), bad={})
        return inputs, goal
    wanted = [column_like(each) for each in (*like["columns"], like["target"])]
    if options.target is not None:
        found = find_column(table, "target", options.target)
        wanted[-1] = replace(wanted[-1], name=found.name, number=found.number)
    trained_on = Table("the training data", (), (), named=like["named"])
    *inputs, goal = match_columns(table, wanted, trained_on)
    return inputs, goal


def _described(column: Column) -> dict[str, Any]:
    return {"name": column.name, "number": column.number, "kind": column.kind, "comma": column.comma}


def column_like(described: Mapping[str, Any]) -> Column:
    """A column without cells, of the kind that a ``reading`` says."""
    return Column(described["name"], described["number"], described["kind"], comma=described["comma"])


def _categories(column: Column) -> list[str]:
    """The texts of a column in alphabetical order; none for a column of numbers."""
    return sorted({text for text in column.texts or () if text is not None}) if column.kind == "text" else []


def encode(columns: Sequence[Column], categories: Sequence[Sequence[str]]) -> Tensor:
    """(N, columns) float32: numbers, positions of categories, NaN for missing and unknown ones."""
    encoded = []
    for column, names in zip(columns, categories, strict=True):
        if column.kind == "text":
            codes = {text: code for code, text in enumerate(names)}
            encoded.append(torch.tensor([codes.get(text or "", torch.nan) for text in column.texts or ()]))
        else:
            encoded.append(column.values.to(torch.float32))
    return torch.stack(encoded, dim=1)
