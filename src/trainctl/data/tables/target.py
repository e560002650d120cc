"""The target column: classes or values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """What is predicted: ``classes`` are empty for regression; ``why`` says how the task was chosen."""

    task: str
    classes: tuple[str, ...]
    why: str


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
    if task == "classification" and not whole:
        raise ConfigError(
            f"dataset.task=classification requires text or whole numbers: {place} has numbers that are not"
            " whole",
            "use dataset.task=regression",
        )
    number = _counted(max(len(distinct), len(values)), values)
    few = len(distinct) <= min(_MOST_CLASSES, rows / 2)
    if task == "classification" or (task == "auto" and whole and few):
        classes = tuple(sorted(distinct, key=_numbers_first))
        return Target("classification", classes, f"{len(distinct)} classes, because it has {number}")
    return Target("regression", (), f"regression, because it has {number}")


def _counted(number: int, values: Any) -> str:
    return f"{number} different {'numbers' if (values % 1).any() else 'whole numbers'}"


def encode_target(table: Table, rows: Tensor, column: Column, target: Target) -> Tensor:
    """These rows of the column as (N,) int64 class numbers, or (N, 1) float64 values.

    Raises ConfigError for a class that ``target`` does not have.
    """
    column = column.keep(rows)
    if not target.classes:
        return column.values.unsqueeze(1)
    number = {name: index for index, name in enumerate(target.classes)}
    whole = all(whole_number(name) == name for name in target.classes)
    texts = _labels(column)
    labels = [_label(text or "", number, whole) for text in texts.unique]
    if unknown := texts.rows_of([label not in number for label in labels]):
        label = labels[texts.codes[unknown[0]]]
        raise ConfigError(
            f"{table.place(int(rows[unknown[0]]))}, {column.place}: {label!r} is not a class of the training"
            " data",
            f"there are: {', '.join(target.classes)}",
        )
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
