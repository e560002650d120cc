"""The target columns: classes, values, or labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainctl.data.tables.columns import Column, whole_number
from trainctl.data.tables.rows import Table
from trainctl.data.tables.texts import Texts
from trainctl.errors import ConfigError

_MOST_CLASSES = 20
_EXACT = 2.0**53
"""From here on float64 does not hold every integer."""


@dataclass(frozen=True)
class Target:
    """What is predicted: ``classes`` are the names of classes, of labels, or of several values, none for one
    value; ``why`` says how the task was chosen."""

    task: str
    classes: tuple[str, ...]
    why: str


def read_targets(file: str, columns: Sequence[Column], task: str, separator: str | None) -> Target:
    """Choose the task, and name the classes, the labels or the values.

    With ``auto``, one column is as :func:`read_target` says, several are labels where all of them hold 0 and
    1 only, else values. With a ``separator``, the column has the labels of a row as one text.

    Raises ConfigError when a column does not fit the task.
    """
    if separator is not None:
        return _read_label_sets(file, columns, task, separator)
    if len(columns) == 1 and task != "multilabel":
        return read_target(file, columns[0], task)
    if task == "classification":
        raise ConfigError(
            f"dataset.task=classification has one target, dataset.target names {len(columns)}",
            "name one column; or use dataset.task=multilabel for columns of 0 and 1, regression for values",
        )
    text = next((column for column in columns if column.kind == "text"), None)
    if text is not None:
        raise ConfigError(
            f"{file}, {text.place}: holds text; {'several targets' if len(columns) > 1 else 'labels'} must"
            " be numbers",
            "name one column of classes; or, of texts that list labels, dataset.separator=';'",
        )
    distinct = [np.unique(column.values.numpy()) for column in columns]
    odd = next((at for at, values in enumerate(distinct) if not np.isin(values, (0.0, 1.0)).all()), None)
    names, many = tuple(column.name for column in columns), f"{len(columns)} columns"
    if task == "multilabel" and odd is not None:
        other = distinct[odd][~np.isin(distinct[odd], (0.0, 1.0))][0]
        raise ConfigError(
            f"{file}, {columns[odd].place}: has {other:g}; a label is 0 or 1",
            "use dataset.task=regression for values, or other columns: dataset.target=[NAME,NAME]",
        )
    if task != "regression" and odd is None:
        count = f"{len(columns)} label{'s' * (len(columns) > 1)}"
        return Target("multilabel", names, f"{count}, because they hold 0 and 1 only")
    fixed = next((at for at, values in enumerate(distinct) if len(values) == 1), None)
    if fixed is not None:
        raise ConfigError(
            f"{file}, {columns[fixed].place}: every row has the target {distinct[fixed][0]:g}; it must vary",
            "leave it out of dataset.target",
        )
    return Target("regression", names, f"regression of {many}")


def _read_label_sets(file: str, columns: Sequence[Column], task: str, separator: str) -> Target:
    setting = f"dataset.separator={separator}"
    if task not in ("auto", "multilabel"):
        raise ConfigError(
            f"{setting}: a target of several labels is for dataset.task=multilabel, not {task}",
            "leave out one of the two",
        )
    if len(columns) > 1 or (not separator.strip(" ") and separator != " "):
        given = f"dataset.target names {len(columns)} columns" if len(columns) > 1 else "it is empty"
        raise ConfigError(f"{setting} divides one column of texts; {given}", "name one column, one sign")
    counts = _labels(columns[0]).counts()
    labels = sorted({label for text in counts for label in _divided(text, separator)}, key=_numbers_first)
    if not labels:
        raise ConfigError(f"{file}, {columns[0].place}: no row has a label", "choose another dataset.target")
    none = sum(count for text, count in counts.items() if not _divided(text, separator))
    without = f", {none} rows without any" if none else ""
    count = f"{len(labels)} label{'s' * (len(labels) > 1)}"
    return Target("multilabel", tuple(labels), f"{count}, divided by {separator!r}{without}")


def _divided(text: str, separator: str) -> list[str]:
    return [label for each in text.split(separator) if (label := each.strip())]


def as_label_sets(column: Column, bad_rows: str) -> Column:
    """The column as texts that list labels: a cell without a value lists none, unless ``bad_rows`` refuses
    rows without a target, or leaves them out."""
    column = replace(column.as_text(), labels=True)
    if column.texts is None or bad_rows != "auto":
        return column
    return replace(column, texts=column.texts.map(lambda text: text or ""))


def read_target(file: str, column: Column, task: str) -> Target:
    """Choose the task, and number the classes.

    With ``auto``, text is classes, and so are whole numbers with at most 20 different values that are at most
    half as many as the rows; all else is values. Classes have the texts of the file: 01 is not 1, nor 1e3
    1000; only if ``auto`` finds nothing but whole numbers, 1.0 is 1.

    Raises ConfigError when the column does not fit the task, or has only one value.
    """
    place = f"{file}, {column.place}"
    because = "it is text"
    text = column.kind != "number"
    if not text and task == "auto" and column.leading_zeros():
        text, because = True, "it has numbers with leading zeros"
    if text and task == "regression":
        raise ConfigError(
            f"dataset.task=regression requires numbers: {place} holds text",
            "use dataset.task=classification, or another dataset.target",
        )
    values = np.empty(0) if text else np.unique(column.values.numpy())
    if task != "classification" and len(values) > _MOST_CLASSES and np.abs(values).max() < _EXACT:
        # Not one class, and nobody has to look at the texts of the cells, which may not be in memory.
        return Target("regression", (), f"regression, because it has {_counted(len(values), values)}")
    distinct, rows = _labels(column).counts(), len(_labels(column))
    if not text and task == "auto":
        plain = [whole_number(label) for label in distinct]
        distinct = distinct if None in plain else dict.fromkeys([label for label in plain if label], 0)
    if len(distinct) == 1 or (task == "regression" and len(values) == 1):
        shown = repr(next(iter(distinct))) if text else f"{values[0]:g}"
        raise ConfigError(
            f"{place}: every row has the target {shown}; it must vary",
            "choose another column with dataset.target=",
        )
    if text:
        if task == "auto" and len(distinct) > max(_MOST_CLASSES, rows / 2):
            raise ConfigError(
                f"{place}: {len(distinct)} different texts in {rows} rows are too many for classes",
                "choose another dataset.target, or dataset.task=classification to take them as classes",
            )
        classes = tuple(sorted(distinct, key=_numbers_first))
        return Target("classification", classes, f"{len(distinct)} classes, because {because}")
    whole = not (values % 1).any()
    few = len(distinct) <= min(_MOST_CLASSES, rows / 2)
    number = _counted(max(len(distinct), len(values)), values)
    if task == "classification" and not whole and not few:
        raise ConfigError(
            f"dataset.task=classification requires text, whole numbers or few different ones: {place} has"
            f" {number} in {rows} rows",
            "use dataset.task=regression",
        )
    if task == "classification" or (task == "auto" and whole and few):
        classes = tuple(sorted(distinct, key=_numbers_first))
        return Target("classification", classes, f"{len(distinct)} classes, because it has {number}")
    return Target("regression", (), f"regression, because it has {number}")


def _counted(number: int, values: Any) -> str:
    return f"{number} different {'numbers' if (values % 1).any() else 'whole numbers'}"


def encode_targets(
    table: Table, rows: Tensor, columns: Sequence[Column], target: Target, separator: str | None
) -> Tensor:
    """These rows of the columns as (N,) int64 class numbers, or (N, outputs) float64 values or labels.

    Raises ConfigError for a class or a label that ``target`` does not have.
    """
    if separator is not None:
        return _encode_label_sets(table, rows, columns[0], target, separator)
    if target.task == "classification":
        return _encode_classes(table, rows, columns[0], target)
    return torch.stack([column.keep(rows).values for column in columns], dim=1)


def _encode_label_sets(table: Table, rows: Tensor, column: Column, target: Target, separator: str) -> Tensor:
    number = {name: index for index, name in enumerate(target.classes)}
    texts = _labels(column.keep(rows))
    sets = [_divided(text or "", separator) for text in texts.unique]
    strange = [next((label for label in each if label not in number), "") for each in sets]
    if unknown := texts.rows_of([bool(label) for label in strange]):
        label = strange[texts.codes[unknown[0]]]
        raise _foreign(table, int(rows[unknown[0]]), column, label, target)
    table_of_sets = torch.zeros(len(sets), len(number), dtype=torch.float64)
    for row, labels in enumerate(sets):
        table_of_sets[row, [number[label] for label in labels]] = 1.0
    return table_of_sets[torch.from_numpy(texts.codes).to(torch.int64)]


def _foreign(table: Table, row: int, column: Column, label: str, target: Target) -> ConfigError:
    what = "class" if target.task == "classification" else "label"
    return ConfigError(
        f"{table.place(row)}, {column.place}: {label!r} is not a {what} of the training data",
        f"there are: {', '.join(target.classes)}",
    )


def _encode_classes(table: Table, rows: Tensor, column: Column, target: Target) -> Tensor:
    column = column.keep(rows)
    number = {name: index for index, name in enumerate(target.classes)}
    whole = all(whole_number(name) == name for name in target.classes)
    texts = _labels(column)
    labels = [_label(text or "", number, whole) for text in texts.unique]
    if unknown := texts.rows_of([label not in number for label in labels]):
        raise _foreign(table, int(rows[unknown[0]]), column, labels[texts.codes[unknown[0]]], target)
    return texts.values([number.get(label, -1) for label in labels], torch.int64)


def _labels(column: Column) -> Texts:
    """The cells as text, as the file has them."""
    return (column.as_text().texts or Texts.of([])).map(lambda text: text or "")


def _label(text: str, classes: Mapping[str, int], whole: bool) -> str:
    """The class that a cell names: 7.0 is 7 if all classes are whole numbers."""
    return text if text in classes or not whole else whole_number(text) or text


def _numbers_first(label: str) -> tuple[bool, float, str]:
    try:
        return (False, float(label), label)
    except ValueError:
        return (True, 0.0, label)
