"""A table of typed columns as a dataset, for ``csv`` and ``parquet``."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.data.tables.columns import Column, is_number, settle_dates
from trainctl.data.tables.numbers import Notation
from trainctl.data.tables.report import column_report, lost_classes, summary, taken
from trainctl.data.tables.rows import (
    Table,
    choose_columns,
    find_column,
    left_out_columns,
    match_columns,
    target_columns,
    usable_rows,
    useless_columns,
)
from trainctl.data.tables.target import Target, as_label_sets, encode_targets, read_targets
from trainctl.data.tables.transform import TableTransform
from trainctl.data.types import Data, Split, split_rows
from trainctl.errors import ConfigError, Problem

_BLOCK = 1 << 16
_LARGEST_ERROR = 1e-4
"""The largest rounding error of a number, in deviations of its column."""


@dataclass(frozen=True)
class Options:
    """The arguments of ``csv`` and ``parquet`` with the same names."""

    target: str | int | Sequence[str | int] | None
    task: str
    drop: Sequence[str | int]
    missing: str
    bad_rows: str
    test: float | int
    test_seed: int
    keep: Sequence[str | int] = ()
    categories: Sequence[str | int] = ()
    separator: str | None = None
    dates: str = "auto"


class Samples:
    """Rows of a table and their targets, to be encoded block by block.

    Args:
        rows: (M,) int64 numbers of rows, sorted.
        targets: of these rows.
        wide: inputs are float64, not float32.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        categories: Sequence[Sequence[str]],
        rows: Tensor,
        targets: Tensor,
        *,
        wide: bool = False,
    ) -> None:
        self.dtype = torch.float64 if wide else torch.float32
        self.shape, self.targets = (len(rows), len(columns)), targets
        self._rows = rows
        self._parts = [
            _encoded(column, names, self.dtype) for column, names in zip(columns, categories, strict=True)
        ]

    def blocks(self) -> Iterator[Tensor]:
        """The inputs, (N, columns): numbers, positions of categories, NaN for missing and unknown ones."""
        for rows in torch.split(self._rows, _BLOCK):
            yield torch.stack([part(rows) for part in self._parts], dim=1)

    def split(self) -> Split:
        """All of them. Columns are given up as they are encoded: the result needs their room."""
        encoded = []
        while self._parts:
            encoded.append(self._parts.pop(0)(self._rows))
        inputs = torch.empty(self.shape, dtype=self.dtype)
        for start in range(0, len(inputs), _BLOCK):
            block = [column[start : start + _BLOCK] for column in encoded]
            torch.stack(block, dim=1, out=inputs[start : start + _BLOCK])
        return Split(inputs, self.targets)


@dataclass(frozen=True)
class Prepared:
    """A table whose columns and rows are chosen, but not encoded. ``facts`` are plain JSON values."""

    facts: Mapping[str, Any]
    train: Samples
    test: Samples | None

    def data(self) -> Data:
        """The dataset; it can be taken once."""
        test = None if self.test is None else self.test.split()
        return finish(self.facts, self.train.split(), test)


def finish(facts: Mapping[str, Any], train: Split, test: Split | None) -> Data:
    """The dataset from the facts and the encoded rows of a prepared table."""
    widths = [len(column["categories"]) for column in facts["reading"]["columns"]]
    classes = tuple(facts["reading"]["classes"])
    return Data(
        name=facts["name"],
        task=facts["reading"]["task"],
        train=train,
        test=test,
        input_shape=(sum(width or 1 for width in widths),),
        output_size=len(classes) or 1,
        transform=nn.Identity(),
        fit=lambda train: TableTransform(train.inputs, widths),
        classes=classes,
        note=facts["note"],
        warnings=tuple(facts["warnings"]),
        report=tuple(facts["report"]),
        reading=facts["reading"],
    )


def prepare(
    name: str,
    table: Table,
    options: Options,
    test_table: Table | None = None,
    like: Mapping[str, Any] | None = None,
) -> Prepared:
    """A table as a dataset; its test split comes from a second table, or is held out of the first.

    The rows that are not test rows decide the categories, and so the width. ``fit`` finds the categories
    that occur, the means and the deviations in the training split alone. With ``like``, the ``reading`` of a
    table that a model was trained on, columns, categories and classes are those of that table.

    Shape: inputs (N, columns) float32, or float64 where that loses digits, targets (N,) int64 or (N, outputs)
    float64.
    """
    table = replace(table, columns=settle_dates(table.columns, options.dates))
    order: list[str] = []
    if like is not None and like.get("kind") != "table":
        order = [each["name"] for each in like["columns"]] if like.get("kind") == "column order" else []
        like = None
    separator = options.separator if like is None else like.get("separator")
    inputs, goals, left_out_columns = _columns(table, options, like, order)
    if separator is not None:
        goals = [as_label_sets(goal, options.bad_rows) for goal in goals]
    rows, left_out = usable_rows(table, inputs, goals, options.missing, options.bad_rows)
    train_rows, test_rows = torch.arange(len(rows)), None
    if test_table is None:
        train_rows, test_rows = split_rows(len(rows), options.test, options.test_seed)
    if like is None:
        asked = f" and dataset.task={options.task}" if options.task != "auto" else ""
        target = read_targets(table.file, [goal.keep(rows) for goal in goals], options.task, separator)
        if target.task == "classification":
            goals = [replace(goal.as_text(), labels=True) for goal in goals]
        categories = [_categories(column, rows[train_rows]) for column in inputs]
        wide = any(_needs_float64(column.keep(rows).values) for column in inputs if column.kind == "number")
    else:
        target, asked = Target(like["task"], tuple(like["classes"]), "as in training"), ""
        categories = [each["categories"] for each in like["columns"]]
        wide = like.get("dtype") == "float64"

    targets = encode_targets(table, rows, goals, target, separator)
    train = Samples(inputs, categories, rows[train_rows], targets[train_rows], wide=wide)
    test = None
    if test_rows is not None:
        test = Samples(inputs, categories, rows[test_rows], targets[test_rows], wide=wide)
    if test_table is not None:
        found = match_columns(test_table, [*inputs, *goals], table)
        others, other_goals = found[: len(inputs)], found[len(inputs) :]
        there, targets, left_out_there = _of_another(
            test_table, others, other_goals, options, target, separator
        )
        test = Samples(others, categories, there, targets, wide=wide)
        left_out = "; ".join(filter(None, [left_out, f"test from {test_table.file}", left_out_there]))

    used = [taken(column.keep(rows), names) for column, names in zip(inputs, categories, strict=True)]
    notes = (*table.notes, summary(table, used, left_out_columns))
    named = "target" if len(goals) == 1 else "targets"
    why = f"{named} {', '.join(goal.name for goal in goals)}: {target.why}{asked}"
    reading = {
        **_reading(table, options, list(zip(inputs, categories, strict=True)), goals),
        "task": target.task,
        "classes": list(target.classes),
        "separator": separator,
        "dtype": "float64" if wide else "float32",
    }
    facts = {
        "name": name,
        "note": "; ".join(filter(None, [Path(table.file).name, *notes, why, left_out])),
        "warnings": [line for goal in goals for line in lost_classes(table, goal)],
        "report": column_report(table, used, goals, left_out_columns),
        "reading": reading,
    }
    return Prepared(facts, train, test)


def _reading(
    table: Table,
    options: Options,
    inputs: Sequence[tuple[Column, Sequence[str]]],
    goals: Sequence[Column],
) -> dict[str, Any]:
    """How rows of the table, and of files like it, are read: plain JSON values."""
    return {
        "kind": "table",
        "named": table.named,
        "width": table.width,
        "missing": options.missing,
        "missing_marks": None if table.marks is None else list(table.marks),
        "columns": [{**_described(column), "categories": texts} for column, texts in inputs],
        "targets": [{**_described(goal), "labels": goal.labels} for goal in goals],
    }


def _of_another(
    table: Table,
    inputs: Sequence[Column],
    goals: Sequence[Column],
    options: Options,
    target: Target,
    separator: str | None,
) -> tuple[Tensor, Tensor, str]:
    """The usable rows of a second table, their targets, and a word on those that were left out."""
    if separator is not None:
        goals = [as_label_sets(goal, options.bad_rows) for goal in goals]
    rows, left_out = usable_rows(table, inputs, goals, options.missing, options.bad_rows)
    return rows, encode_targets(table, rows, goals, target, separator), left_out


def _columns(
    table: Table, options: Options, like: Mapping[str, Any] | None, order: Sequence[str]
) -> tuple[list[Column], list[Column], dict[int, str]]:
    """The input columns, the target columns and why others were left out: as the options say, or as a model
    was trained on them. ``order`` is the names of the inputs in another order."""
    if like is None:
        inputs, goals, left_out = choose_columns(
            table, options.target, options.drop, options.keep, options.categories, options.task
        )
        if options.task == "classification":
            # Where some cells are not numbers, all of them are names of classes.
            goals = [goal.as_text() if goal.bad and goal.texts is not None else goal for goal in goals]
        asked = [find_column(table, "keep", each) for each in (*options.keep, *options.categories)]
        useless = useless_columns(inputs, {column.number for column in asked})
        inputs = [column for column in inputs if column.number not in useless]
        if set(order) == {column.name for column in inputs}:
            inputs.sort(key=lambda column: order.index(column.name))
        if not inputs:
            raise ConfigError(
                f"{table.file}: no input column is left{left_out_columns(table, useless)}",
                "'dataset.keep=[NAME]' takes a column of different texts as categories",
            )
        return inputs, goals, left_out | useless
    _refuse_others(options, like)
    inputs = [column_like(each, like) for each in like["columns"]]
    goals = [column_like(each, like) for each in like["targets"]]
    if options.target is not None:
        named = target_columns(table, options.target)
        if len(named) != len(goals):
            raise ConfigError(
                f"dataset.target names {len(named)} columns, the model was trained on {len(goals)}",
                "name as many, in the order of training",
            )
        goals = [
            replace(goal, name=found.name, number=found.number)
            for goal, found in zip(goals, named, strict=True)
        ]
    trained_on = Table("the training data", (), (), named=like["named"])
    found_columns = match_columns(table, [*inputs, *goals], trained_on)
    return found_columns[: len(inputs)], found_columns[len(inputs) :], {}


def _refuse_others(options: Options, like: Mapping[str, Any]) -> None:
    """Raise ConfigError for settings that contradict the table that a model was trained on."""
    kinds = {each["name"]: each["kind"] for each in like["columns"]}
    drop, keep, categories = (
        [unicodedata.normalize("NFC", each) for each in names if isinstance(each, str)]
        for names in (options.drop, options.keep, options.categories)
    )
    known = {*kinds, *(each["name"] for each in like["targets"])}
    wrong = [f"dataset.drop=[{name}]: the model has that input" for name in drop if name in kinds]
    wrong += [
        f"dataset.keep=[{name}]: the model has no such input"
        for name in keep
        if name not in known and not is_number(name)
    ]
    wrong += [
        f"dataset.categories=[{name}]: the model was trained on its numbers"
        for name in categories
        if kinds.get(name, "text") != "text"
    ]
    wrong += [
        f"dataset.dates={options.dates}: the model was trained on {name} with {order.replace('_', ' ')}"
        for name, order in ((each["name"], each.get("dates")) for each in like["columns"])
        if order and options.dates not in ("auto", order)
    ]
    if options.task not in ("auto", like["task"]):
        wrong.append(f"dataset.task={options.task}: the model was trained for {like['task']}")
    if wrong:
        raise ConfigError([Problem(each, "train a new run with other columns") for each in wrong])


def marks_like(like: Mapping[str, Any] | None, marks: list[str] | None) -> list[str] | None:
    """The cells without a value: ``marks``, or those of the table that a model was trained on.

    Raises ConfigError where both say something else.
    """
    if like is None or like.get("kind") != "table":
        return marks
    trained: list[str] | None = like.get("missing_marks")
    if marks is not None and list(marks) != list(trained or ()):
        used = "the usual ones" if trained is None else list(trained)
        raise ConfigError(
            f"dataset.missing_marks={list(marks)}: the model was trained with {used}",
            "train a new run with others",
        )
    return trained


def _described(column: Column) -> dict[str, Any]:
    notation = column.notation
    written = {"comma": notation.comma, "unit": notation.unit, "dates": notation.dates}
    return {"name": column.name, "number": column.number, "kind": column.kind, **written}


def column_like(described: Mapping[str, Any], reading: Mapping[str, Any]) -> Column:
    """A column without cells, of the kind that a ``reading`` says."""
    return Column(
        described["name"],
        described["number"],
        described["kind"],
        notation=Notation(
            described.get("comma", False), described.get("unit", ""), described.get("dates", "")
        ),
        signs=reading.get("missing_marks") is None,
        labels=described.get("labels", False),
    )


def _needs_float64(values: Tensor) -> bool:
    """Would float32 round the values by more than a ten-thousandth of their deviation, as with times?"""
    values = values[~values.isnan()]
    if len(values) < 2:
        return False
    error = (values - values.to(torch.float32).to(torch.float64)).abs().max()
    return bool(error > _LARGEST_ERROR * values.std())


def _categories(column: Column, rows: Tensor) -> list[str]:
    """The texts of a column in these rows in alphabetical order; none for a column of numbers."""
    if column.kind != "text" or column.texts is None:
        return []
    return sorted(column.texts.take(rows).counts())


def encode(columns: Sequence[Column], categories: Sequence[Sequence[str]], *, wide: bool = False) -> Tensor:
    """All rows of some columns, as in :meth:`Samples.blocks`."""
    count = max(len(column.texts or column.values) for column in columns)
    rows = torch.arange(count)
    return Samples(columns, categories, rows, torch.empty(0), wide=wide).split().inputs


def _encoded(column: Column, categories: Sequence[str], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Gives the encoded cells of some rows of a column."""
    if column.kind != "text" or column.texts is None:
        return lambda rows: column.values[rows].to(dtype)
    number = {text: code for code, text in enumerate(categories)}
    values = torch.tensor([number.get(text or "", torch.nan) for text in column.texts.unique], dtype=dtype)
    codes = torch.from_numpy(column.texts.codes)
    return lambda rows: values[codes[rows].to(torch.int64)]
