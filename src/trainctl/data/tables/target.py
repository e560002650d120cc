"""The target column: classes or values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainctl.data.tables.columns import Column, is_code, whole_number
from trainctl.data.tables.rows import Table
from trainctl.errors import ConfigError

_MOST_CLASSES = 20


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
    labels = _labels(column)
    because = "it is text"
    text = column.kind != "number"
    if not text and task == "auto" and any(is_code(label) for label in labels):
        text, because = True, "it has numbers with leading zeros"
    if text and task == "regression":
        raise ConfigError(
            f"dataset.task=regression requires numbers: {place} holds text",
            "use dataset.task=classification, or another dataset.target",
        )
    if not text and task == "auto":
        plain = [whole_number(label) for label in labels]
        labels = [label for label in plain if label is not None] if None not in plain else labels
    rows, distinct = len(labels), sorted(set(labels), key=_numbers_first)
    values = [] if text else torch.unique(column.values).tolist()
    if len(distinct) == 1 or (task == "regression" and len(values) == 1):
        shown = repr(distinct[0]) if text else f"{values[0]:g}"
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
        return Target("classification", tuple(distinct), f"{len(distinct)} classes, because {because}")
    whole = not any(value % 1 for value in values)
    if task == "classification" and not whole:
        raise ConfigError(
            f"dataset.task=classification requires text or whole numbers: {place} has numbers that are not"
            " whole",
            "use dataset.task=regression",
        )
    number = f"{max(len(distinct), len(values))} different {'whole numbers' if whole else 'numbers'}"
    few = len(distinct) <= min(_MOST_CLASSES, rows / 2)
    if task == "classification" or (task == "auto" and whole and few):
        return Target("classification", tuple(distinct), f"{len(distinct)} classes, because it has {number}")
    return Target("regression", (), f"regression, because it has {number}")


def encode_target(table: Table, rows: Tensor, column: Column, target: Target) -> Tensor:
    """These rows of the column as (N,) int64 class numbers, or (N, 1) float64 values.

    Raises ConfigError for a class that ``target`` does not have.
    """
    column = column.keep(rows)
    if not target.classes:
        return column.values.unsqueeze(1)
    number = {name: index for index, name in enumerate(target.classes)}
    whole = all(whole_number(name) == name for name in target.classes)
    labels = [_label(text, number, whole) for text in _labels(column)]
    for row, label in zip(rows.tolist(), labels, strict=True):
        if label not in number:
            raise ConfigError(
                f"{table.place(row)}, {column.place}: {label!r} is not a class of the training data",
                f"there are: {', '.join(target.classes)}",
            )
    return torch.tensor([number[label] for label in labels], dtype=torch.int64)


def _labels(column: Column) -> list[str]:
    """The cells as text, as the file has them."""
    return [text or "" for text in column.as_text().texts or ()]


def _label(text: str, classes: Mapping[str, int], whole: bool) -> str:
    """The class that a cell names: 7.0 is 7 if all classes are whole numbers."""
    return text if text in classes or not whole else whole_number(text) or text


def _numbers_first(label: str) -> tuple[bool, float, str]:
    try:
        return (False, float(label), label)
    except ValueError:
        return (True, 0.0, label)
