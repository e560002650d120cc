"""The target column: classes or values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainctl.data.tables.columns import Column
from trainctl.errors import ConfigError

_MOST_CLASSES = 20


@dataclass(frozen=True)
class Target:
    """What is predicted: ``classes`` are empty for regression; ``why`` says how the task was chosen."""

    task: str
    classes: tuple[str, ...]
    why: str


def as_labels(column: Column) -> Column:
    """The column as text if some of its cells are not numbers: then all of them are names of classes."""
    if not column.bad or column.texts is None:
        return column
    return replace(column, kind="text", values=torch.empty(0, dtype=torch.float64), bad={})


def read_target(file: str, column: Column, task: str) -> Target:
    """Choose the task, and number the classes.

    With ``auto``, text is classes, and so are whole numbers with at most 20 different values that are at most
    half as many as the rows; all else is values.

    Raises ConfigError when the column does not fit the task, or has only one value.
    """
    if column.kind != "number":
        if task == "regression":
            raise ConfigError(
                f"dataset.task=regression requires numbers: {file}, {column.place} holds text",
                "use dataset.task=classification, or another dataset.target",
            )
        classes = sorted(set(_labels(column)), key=_numbers_first)
        _refuse_one(file, column, classes)
        if task == "auto" and len(classes) > max(_MOST_CLASSES, len(column.texts or ()) / 2):
            raise ConfigError(
                f"{file}, {column.place}: {len(classes)} different texts in {len(column.texts or ())} rows"
                " are too many for classes",
                "choose another dataset.target, or use dataset.task=classification to take them as classes",
            )
        return Target("classification", tuple(classes), f"{len(classes)} classes, because it is text")
    distinct = torch.unique(column.values)
    whole = bool((distinct == distinct.round()).all())
    number = f"{len(distinct)} different {'whole numbers' if whole else 'numbers'}"
    _refuse_one(file, column, distinct.tolist())
    few = len(distinct) <= _MOST_CLASSES and len(distinct) <= len(column.values) / 2
    if task == "classification" and not whole:
        raise ConfigError(
            f"dataset.task=classification requires text or whole numbers: {file}, {column.place} has numbers"
            " that are not whole",
            "use dataset.task=regression",
        )
    if task == "classification" or (task == "auto" and whole and few):
        classes = [str(int(value)) for value in distinct.tolist()]
        return Target("classification", tuple(classes), f"{len(classes)} classes, because it has {number}")
    return Target("regression", (), f"regression, because it has {number}")


def encode_target(file: str, lines: Sequence[int], row_word: str, column: Column, target: Target) -> Tensor:
    """The column as (N,) int64 class numbers, or (N, 1) float32 values.

    Raises ConfigError for a class that ``target`` does not have.
    """
    if not target.classes:
        return column.values.to(torch.float32).unsqueeze(1)
    number = {name: index for index, name in enumerate(target.classes)}
    labels = _labels(column)
    for row, label in enumerate(labels):
        if label not in number:
            raise ConfigError(
                f"{file}, {row_word} {lines[row]}, {column.place}:"
                f" {label!r} is not a class of the training data",
                f"there are: {', '.join(target.classes)}",
            )
    return torch.tensor([number[label] for label in labels], dtype=torch.int64)


def _labels(column: Column) -> list[str]:
    if column.kind == "number":
        return [
            f"{value:.15g}" if value != round(value) else str(int(value)) for value in column.values.tolist()
        ]
    return [text or "" for text in column.texts or ()]


def _numbers_first(label: str) -> tuple[bool, float, str]:
    try:
        return (False, float(label), label)
    except ValueError:
        return (True, 0.0, label)


def _refuse_one(file: str, column: Column, values: Sequence[object]) -> None:
    if len(values) == 1:
        shown = f"{values[0]:g}" if isinstance(values[0], float) else repr(values[0])
        raise ConfigError(
            f"{file}, {column.place}: every row has the target {shown}; it must vary",
            "choose another column with dataset.target=",
        )
