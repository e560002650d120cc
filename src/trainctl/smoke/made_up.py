"""Small files of made-up data, for datasets whose own files are absent."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from trainctl.components.tasks._base import Task, asked_task, task_named
from trainctl.config.settings import Component
from trainctl.data.tables.text import choose_delimiter
from trainctl.errors import MissingDataError
from trainctl.registry import TASKS
from trainctl.registry.constraints import show

_ROWS = 96
_CLASSES = ("circle", "cross", "square", "star", "ring", "moon", "arrow", "wave", "spiral", "heart")
_COLOURS = ("red", "green", "blue")
_COLUMN_NUMBER = re.compile(r"-?[1-9]\d*")
# Nothing states the number of classes or values of an absent file, or the shape of its arrays.
_CLASS_COUNTS, _VALUE_COUNTS = (3, 10, 2), (1, 3, 10)
_SHAPES = ((4,), (3, 32, 32), (1, 28, 28), (16, 8))


@dataclass(frozen=True)
class Form:
    """The form of made-up data.

    Attributes:
        kind: the task's kind of targets, else the loss's, where one declares it.
        classes: whether the targets are classes, not values.
        rows: the number of samples.
        outputs: the number of classes, or of values to predict.
        shape: of one sample, where the file does not decide it.
        names: of the classes.
    """

    kind: str | None = None
    classes: bool = True
    rows: int = _ROWS
    outputs: int = 3
    shape: tuple[int, ...] = (4,)
    names: Sequence[str] = _CLASSES


@dataclass(frozen=True)
class StandIn:
    """Overrides that replace absent data, and a note for people.

    ``guessed`` says that nothing states the form of the absent data.
    """

    words: tuple[str, ...]
    note: str
    guessed: bool


def stand_ins(
    dataset: Component, missing: MissingDataError, folder: Path, kind: str | None = None, samples: int = 0
) -> Iterator[StandIn]:
    """Replacements for ``dataset``, the likeliest first.

    Files of the same dataset, read by its own settings, where it is one of files; else the ``synthetic``
    dataset, of the shape that the dataset states.

    Args:
        kind: the loss's kind of targets: it decides the task where the dataset would find it in its data.
        samples: the number that a step needs.
    """
    make, arguments = _FILES.get(dataset.name), dataset.arguments
    shares, rows = _shares(dataset, samples)
    if missing.make is not None:
        path = missing.make(folder / "made-up", arguments, rows)
        note = f"made-up data in place of {arguments.get('path')}"
        yield StandIn((f"dataset.path='{path}'", *shares), note, guessed=False)
        return
    if make is None:
        stated = {"dataset": "synthetic", **missing.stand_in}
        other = stated.pop("dataset")
        if other == "synthetic":
            stated = {"samples": max(160, rows), "test_samples": 40, **stated}
        # A share, because a count is meant for the real data; 0 stays 0.
        stated["val"] = 0.25 if dataset.common["val"] else 0
        words = [f"++dataset.{key}={show(value)}" for key, value in stated.items()]
        own = [] if other == dataset.name else [f"dataset={other}"]
        what = "its default data" if other == dataset.name else f"{other} data"
        yield StandIn((*own, *words), f"{what} in place of {dataset.name}", guessed=False)
        return
    tasks, has_arrays = _tasks(dataset, missing, kind), dataset.name == "npz"
    wanted = asked_task(dataset.common)
    names = () if wanted is None else wanted.made_up_classes
    columns, classes = len(_named_targets(arguments)) or 1, (len(names),) if names else _CLASS_COUNTS
    forms = [
        Form(task.made_up or kind, task.class_numbers, rows, outputs, shape, names or _CLASSES)
        for task in tasks
        # A table has the columns of targets that are named.
        for outputs in (classes if task.class_numbers else _VALUE_COUNTS if has_arrays else (columns,))
        for shape in (_SHAPES if has_arrays else ((4,),))
    ]
    # Where the config's task contradicts the loss, no data fits.
    guessed = kind is None or kind in (wanted or tasks[0]).loss_targets
    keys = [key for key in ("path", "val_path", "test_path") if key == "path" or arguments.get(key)]
    absent = " and ".join(str(arguments.get(key)) for key in keys)
    for number, form in enumerate(forms):
        words = []
        for key in keys:
            place = folder / "made-up" / str(number) / key
            place.mkdir(parents=True, exist_ok=True)
            words.append(f"dataset.{key}='{make(place, arguments, form)}'")
        if dataset.name == "shards":
            words.append(f"dataset.cache_dir='{folder / 'made-up' / 'cache'}'")
        shaped = f" of shape {form.shape}" if has_arrays and number else ""
        yield StandIn((*words, *shares), f"made-up data{shaped} in place of {absent}", guessed)


def _tasks(dataset: Component, missing: MissingDataError, kind: str | None) -> list[Task]:
    """The tasks that the data may be for: the config's, else those that fit the loss."""
    wanted = asked_task(dataset.common)
    if wanted is not None and wanted.adopts:
        return [task_named(wanted.adopts)]
    stated = str(missing.stand_in["task"])
    asked = dataset.arguments.get("task", stated if dataset.name == "image_folder" else "auto")
    if asked != "auto":
        return [task_named(str(asked))]
    tasks = [task_named(name) for name in sorted(TASKS.names(), key=lambda name: name != stated)]
    return [task for task in tasks if kind in task.loss_targets] or tasks


def _shares(dataset: Component, samples: int) -> tuple[list[str], int]:
    """Overrides that make the counts of ``val`` and ``test``, meant for the real data, shares; and the number
    of rows that leaves ``samples`` to train on."""
    words, left = [], 1.0
    for key, value in (("val", dataset.common["val"]), ("test", dataset.arguments.get("test", 0.2))):
        share = value
        if value and not (isinstance(value, float) and 0.05 <= value <= 0.5):
            share = 0.25
            words.append(f"++dataset.{key}={share}")
        left *= 1 - share
    return words, max(_ROWS, math.ceil(samples / left) + 4)


# ------------------------------------------------------------------ files


def images(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    """A folder of small images, with a sub-folder for each class."""
    from PIL import Image

    root, generator = folder / "images", numpy.random.default_rng(0)
    for number, name in enumerate(form.names[: form.outputs]):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(math.ceil(form.rows / form.outputs)):
            pixels = generator.integers(0, 128, (16, 16, 3), dtype=numpy.uint8)
            pixels[..., number % 3] += numpy.uint8(100 - 30 * (number // 3))
            Image.fromarray(pixels).save(root / name / f"{index:02d}.png")
    return root


def write_csv(
    path: Path,
    settings: Mapping[str, Any],
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    delimiter: str = ",",
) -> None:
    """Write a table as the dataset ``settings`` say; ``delimiter`` is used where they say ``auto``."""
    asked = {key: str(settings.get(key, "auto")) for key in ("delimiter", "encoding")}
    if asked["delimiter"] != "auto":
        delimiter = choose_delimiter("", "", asked["delimiter"], 0)
    try:
        encoding = codecs.lookup(asked["encoding"]).name
    except LookupError:
        encoding = "utf-8"  # auto; reading the file refuses an unknown encoding
    with path.open("w", newline="", encoding=encoding, errors="replace") as stream:
        stream.write("a line above the table\n" * int(settings.get("skip_lines", 0)))
        header = [] if settings.get("header") is False else [names]
        csv.writer(stream, delimiter=delimiter).writerows([*header, *rows])


def _targets(total: Any, form: Form) -> Any:
    """Class numbers or values for (rows,) numbers."""
    if form.classes:
        # By rank, so that all classes have equally many rows.
        return total.argsort().argsort() * form.outputs // len(total)
    if form.kind == "indicators":
        return (total > 0) * 1.0
    if form.kind == "binary":
        return 1 / (1 + numpy.exp(-total))
    return numpy.where(total > 0, 1.0, -1.0) if form.kind == "sign" else total


def _table(arguments: Mapping[str, Any], form: Form) -> dict[str, Sequence[Any]]:
    """The columns of a table by name: numbers, a text, and the config's ``target`` and ``drop``.

    Both may be names, or numbers from 1 or, below 0, from the end.
    """
    named, drop = _named_targets(arguments), list(arguments.get("drop") or ())
    asked = dict.fromkeys(map(str, [*drop, *named]))
    numbers = {each: int(each) for each in asked if _COLUMN_NUMBER.fullmatch(each)}
    width = max([5 + len(drop), *(abs(number) + 2 for number in numbers.values())])
    places = {each: number - 1 if number > 0 else width + number for each, number in numbers.items()}
    free = [place for place in range(width) if place not in places.values()]
    places |= {each: free.pop(0) for each in asked if each not in places}
    # Without a target the dataset takes the last column that is not dropped.
    goals = [places[each] for each in named] or [free.pop()]
    text = free.pop()
    names = [f"made up {place + 1}" for place in range(width)]
    for each, place in places.items():
        if each not in numbers:
            names[place] = each
    values = numpy.random.default_rng(0).normal(size=(form.rows, width)).round(4)
    columns: list[Sequence[Any]] = list(values.T.tolist())
    for place in places.values():
        columns[place] = range(form.rows)
    for number, goal in enumerate(goals):
        targets = _targets(numpy.roll(values, number).sum(1), form)
        columns[goal] = [form.names[each] for each in targets] if form.classes else targets.round(4).tolist()
        if form.kind == "indicators" and (separator := arguments.get("separator")):
            columns[goal] = [separator.join(_CLASSES[: 1 + int(each)]) for each in targets]
    columns[text] = [_COLOURS[row % len(_COLOURS)] for row in range(form.rows)]
    return dict(zip(names, columns, strict=True))


def _named_targets(arguments: Mapping[str, Any]) -> list[str]:
    """The columns that the config's ``target`` names."""
    target = arguments.get("target")
    return list(map(str, target if isinstance(target, list | tuple) else [] if target is None else [target]))


def _csv(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    path, table = folder / "data.csv", _table(arguments, form)
    write_csv(path, arguments, list(table), zip(*table.values(), strict=True))
    return path


def _texts(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    """Texts of colours, with classes by their first word."""
    path, draw = folder / "texts.csv", numpy.random.default_rng(0)
    drawn = draw.integers(0, form.outputs, (form.rows, 4))
    names = [str(arguments.get(key) or key) for key in ("text", "target")]
    rows = [[" ".join(_CLASSES[each] for each in row), _CLASSES[row[0]]] for row in drawn.tolist()]
    write_csv(path, arguments, names, rows)
    return path


def _parquet(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table(_table(arguments, form)), path)
    return path


def _npz(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    generator = numpy.random.default_rng(0)
    arrays: dict[str, Any] = {}
    has_test = arguments.get("test_inputs") or arguments.get("test_targets")
    for prefix in ("", "test_") if has_test else ("",):
        suffix = "_test" if prefix else ""
        inputs = generator.normal(size=(form.rows, *form.shape)).astype(numpy.float32)
        targets = _targets(inputs.reshape(form.rows, -1).sum(1), form)
        if not form.classes and form.outputs > 1:
            targets = numpy.stack([targets] * form.outputs, 1)
        arrays[arguments.get(f"{prefix}inputs") or f"x{suffix}"] = inputs
        kind = numpy.int64 if form.classes else numpy.float32
        arrays[arguments.get(f"{prefix}targets") or f"y{suffix}"] = targets.astype(kind)
    numpy.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def _shards(folder: Path, arguments: Mapping[str, Any], form: Form) -> Path:
    """Small images in a tar file, or numbers in a Parquet file where the config names such files."""
    generator = numpy.random.default_rng(0)
    target, inputs = arguments.get("target"), list(arguments.get("inputs") or ())
    targets = _targets(generator.normal(size=form.rows), form).tolist()
    if ".parquet" in str(arguments.get("path")):
        import pyarrow
        import pyarrow.parquet

        numbers = {name: generator.normal(size=form.rows) for name in inputs or ("a", "b")}
        table = pyarrow.table({**numbers, target or "label": targets})
        pyarrow.parquet.write_table(table, folder / "made.parquet")
        return folder / "made.parquet"
    field = target not in (None, "cls", "txt", "json")
    with tarfile.open(folder / "made.tar", "w") as archive:
        for row, value in enumerate(targets):
            answer = json.dumps({target: value}) if field else str(value)
            members = {
                inputs[0] if inputs else "png": _small_image(generator),
                "json" if field else target or "cls": answer.encode(),
            }
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{row:04d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return folder / "made.tar"


def _small_image(generator: Any) -> bytes:
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=numpy.uint8)).save(stored, "PNG")
    return stored.getvalue()


_FILES: Mapping[str, Callable[[Path, Mapping[str, Any], Form], Path]] = {
    "csv": _csv,
    "csv_text": _texts,
    "parquet": _parquet,
    "npz": _npz,
    "image_folder": images,
    "shards": _shards,
}
