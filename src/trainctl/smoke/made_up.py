"""Small files of made-up data, for the datasets that read a file which is not there."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy

from trainctl.components.tasks._base import Task, task_named
from trainctl.config.settings import Component
from trainctl.data.tables.text import choose_delimiter
from trainctl.errors import MissingDataError
from trainctl.registry import TASKS
from trainctl.registry.constraints import show

_ROWS = 96
_CLASSES = ("circle", "cross", "square", "star", "ring", "moon", "arrow", "wave", "spiral", "heart")
_COLOURS = ("red", "green", "blue")
_NUMBER = re.compile(r"-?[1-9]\d*")
# Nothing says how many classes or values an absent file has, nor what shape its arrays: the likeliest first.
_CLASS_COUNTS, _VALUE_COUNTS = (3, 10, 2), (1, 3, 10)
_SHAPES = ((4,), (3, 32, 32), (1, 28, 28), (16, 8))


@dataclass(frozen=True)
class Form:
    """What made-up data is like.

    Attributes:
        kind: what the loss compares the outputs with, where it says so.
        classes: whether the targets are classes, not values.
        rows: how many samples there are.
        outputs: how many classes, or values to predict.
        shape: one sample's, where the file does not decide it.
    """

    kind: str | None = None
    classes: bool = True
    rows: int = _ROWS
    outputs: int = 3
    shape: tuple[int, ...] = (4,)


@dataclass(frozen=True)
class StandIn:
    """Data in the place of absent data.

    Attributes:
        words: what puts it there.
        note: what people are told.
        guessed: nothing says that the absent data has this shape, or these classes.
    """

    words: tuple[str, ...]
    note: str
    guessed: bool


def stand_ins(
    dataset: Component, missing: MissingDataError, folder: Path, kind: str | None = None, samples: int = 0
) -> Iterator[StandIn]:
    """What can take the place of ``dataset``, the likeliest first.

    Files that the same dataset reads, by its own settings, where their form is known; else the ``synthetic``
    dataset, of the shape that the dataset states.

    Args:
        kind: what the loss compares the outputs with: it decides the task where the dataset would find it in
            its data.
        samples: how many a step needs.
    """
    make = _FILES.get(dataset.name)
    shares, rows = _shares(dataset, samples)
    if make is None:
        arguments = {"samples": max(160, rows), "test_samples": 40, **missing.stand_in}
        words = [f"++dataset.{key}={show(value)}" for key, value in arguments.items()]
        # A share, because a count is meant for the real data; 0 stays 0.
        held_out = f"++dataset.val={0.25 if dataset.common['val'] else 0}"
        note = f"synthetic data in place of {dataset.name}"
        yield StandIn(("dataset=synthetic", *words, held_out), note, guessed=False)
        return
    tasks = _tasks(dataset, missing, kind)
    shapes = _SHAPES if dataset.name == "npz" else ((4,),)
    forms = [
        Form(kind, task.class_numbers, rows, outputs, shape)
        for task in tasks
        for outputs, shape in product(_outputs(dataset, task), shapes)
    ]
    # Where the loss wants another kind of targets than the config says, no data will do.
    contradicts = kind is not None and kind not in tasks[0].loss_targets
    for number, form in enumerate(forms):
        place = folder / "made-up" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        words = [f"dataset.path='{make(place, dataset.arguments, form)}'", *shares]
        named = [str(dataset.arguments.get("path"))]
        if dataset.arguments.get("test_path"):
            other = place / "test"
            other.mkdir(exist_ok=True)
            words.append(f"dataset.test_path='{make(other, dataset.arguments, form)}'")
            named.append(str(dataset.arguments["test_path"]))
        of_shape = f" of shape {form.shape}" if dataset.name == "npz" and number else ""
        note = f"made-up data{of_shape} in place of {' and '.join(named)}"
        yield StandIn(tuple(words), note, guessed=not contradicts)


def _tasks(dataset: Component, missing: MissingDataError, kind: str | None) -> list[Task]:
    """The tasks that the data may be for: the config's, else those that the loss is for."""
    first = str(missing.stand_in["task"])
    asked = dataset.arguments.get("task", "auto" if dataset.name in _FINDS_TASK else first)
    if asked != "auto":
        return [task_named(str(asked))]
    tasks = [task_named(name) for name in sorted(TASKS.names(), key=lambda name: name != first)]
    return [task for task in tasks if kind in task.loss_targets] or tasks


def _outputs(dataset: Component, task: Task) -> tuple[int, ...]:
    if task.class_numbers:
        return _CLASS_COUNTS
    return _VALUE_COUNTS if dataset.name == "npz" else (1,)  # a table has one column of targets


def _shares(dataset: Component, samples: int) -> tuple[list[str], int]:
    """Words that hold shares out where the config says counts, which are meant for the real data; and with
    how many rows ``samples`` of them are left to train on."""
    words, left = [], 1.0
    for key, value in (("val", dataset.common["val"]), ("test", dataset.arguments.get("test", 0.2))):
        share = value
        if value and not (isinstance(value, float) and 0.05 <= value <= 0.5):
            share = 0.25
            if key in dataset.arguments or key in dataset.common:
                words.append(f"++dataset.{key}={share}")
        left *= 1 - share
    return words, max(_ROWS, math.ceil(samples / left) + 4)


# ------------------------------------------------------------------ files


def images(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    """A folder of small pictures, a sub-folder a class."""
    from PIL import Image

    root, generator = folder / "images", numpy.random.default_rng(0)
    for number, name in enumerate(_CLASSES[: form.outputs]):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(math.ceil(form.rows / form.outputs)):
            pixels = generator.integers(0, 128, (16, 16, 3), dtype=numpy.uint8)
            pixels[..., number % 3] += numpy.uint8(100 - 30 * (number // 3))
            Image.fromarray(pixels).save(root / name / f"{index:02d}.png")
    return root


def _targets(total: Any, form: Form) -> Any:
    """What is to be predicted, of (rows,) numbers that go with the inputs: class numbers, or values."""
    if form.classes:
        # By rank, so that every class has as many rows as every other.
        return total.argsort().argsort() * form.outputs // len(total)
    if form.kind == "binary":
        return 1 / (1 + numpy.exp(-total))
    return numpy.where(total > 0, 1.0, -1.0) if form.kind == "sign" else total


def _table(arguments: Mapping[str, Any], form: Form) -> tuple[list[str], list[list[Any]]]:
    """Names and rows of a table: numbers, a column of texts, and a target, where and as the config says."""
    target, drop = arguments.get("target"), list(arguments.get("drop") or ())
    counted = [int(each) for each in (target, *drop) if _NUMBER.fullmatch(str(each))]
    width = max([5 + len(drop), *(abs(each) + 2 for each in counted)])

    def place(wanted: object) -> int | None:
        """The place of a column that is named by its number, from 1 or, below 0, from the end."""
        number = int(str(wanted)) if _NUMBER.fullmatch(str(wanted)) else 0
        return None if not number else number - 1 if number > 0 else width + number

    dropped = {found for each in drop if (found := place(each)) is not None}
    goal = place(target)
    free = [number for number in range(width) if number not in dropped and number != goal]
    names: dict[int, str] = {}
    for each in drop:
        if place(each) is None and each != target:
            names[free[0]] = str(each)
            dropped.add(free.pop(0))
    if goal is None:
        # Without a word about it the target is the last column that is not dropped.
        goal = free.pop()
        names[goal] = "kind" if target is None else str(target)
    text = free.pop()
    taken = set(names.values())
    for number in range(width):
        name = "colour" if number == text else f"x{number + 1}"
        while number not in names and name in taken:
            name += "_"
        names.setdefault(number, name)
    numbers = numpy.random.default_rng(0).normal(size=(form.rows, width)).round(4)
    targets = _targets(numbers[:, free].sum(1), form)
    rows = [
        [
            _CLASSES[int(targets[row])]
            if column == goal and form.classes
            else round(float(targets[row]), 4)
            if column == goal
            else _COLOURS[row % len(_COLOURS)]
            if column == text
            else row
            if column in dropped
            else float(numbers[row, column])
            for column in range(width)
        ]
        for row in range(form.rows)
    ]
    return [names[number] for number in range(width)], rows


def _csv(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    path = folder / "data.csv"
    names, rows = _table(arguments, form)
    asked = {key: str(arguments.get(key, "auto")) for key in ("delimiter", "encoding")}
    delimiter = "," if asked["delimiter"] == "auto" else choose_delimiter("", "", asked["delimiter"], 0)
    try:
        encoding = codecs.lookup("utf-8" if asked["encoding"] == "auto" else asked["encoding"]).name
    except LookupError:
        encoding = "utf-8"  # whoever reads it says that there is none of that name
    with path.open("w", newline="", encoding=encoding, errors="replace") as stream:
        stream.write("a line above the table\n" * int(arguments.get("skip_lines", 0)))
        header = [] if arguments.get("header") is False else [names]
        csv.writer(stream, delimiter=delimiter).writerows([*header, *rows])
    return path


def _parquet(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "data.parquet"
    names, rows = _table(arguments, form)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def _npz(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    path, generator = folder / "data.npz", numpy.random.default_rng(0)
    named = [arguments.get(key) for key in ("inputs", "targets", "test_inputs", "test_targets")]
    pairs: list[Sequence[str]] = [(named[0] or "x", named[1] or "y")]
    if named[2] or named[3]:
        pairs.append((named[2] or "x_test", named[3] or "y_test"))
    arrays: dict[str, Any] = {}
    for inputs_name, targets_name in pairs:
        inputs = generator.normal(size=(form.rows, *form.shape)).astype(numpy.float32)
        targets = _targets(inputs.reshape(form.rows, -1).sum(1), form)
        if not form.classes and form.outputs > 1:
            targets = numpy.stack([targets] * form.outputs, 1)
        whole = numpy.int64 if form.classes else numpy.float32
        arrays |= {inputs_name: inputs, targets_name: targets.astype(whole)}
    numpy.savez(path, **arrays)
    return path


_FILES: Mapping[str, Callable[[Path, Mapping[str, Any], Form], Path]] = {
    "csv": _csv,
    "parquet": _parquet,
    "npz": _npz,
    "image_folder": images,
}
_FINDS_TASK = ("csv", "parquet", "npz")
