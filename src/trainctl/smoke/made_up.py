"""Small files of made-up data, for the datasets that read a file which is not there."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy

from trainctl.config import Component, show
from trainctl.errors import MissingDataError

_ROWS = 96
_CLASSES = ("circle", "cross", "square")


def stand_in(dataset: Component, missing: MissingDataError, folder: Path) -> tuple[tuple[str, ...], str]:
    """The words that put made-up data in the place of ``dataset``, and what people are told of it.

    Files that the same dataset reads, where their form is known; else the ``synthetic`` dataset, of the shape
    that the dataset says.
    """
    make, path = _FILES.get(dataset.name), dataset.arguments.get("path")
    if make is not None and not dataset.arguments.get("test_path"):
        made = make(folder, dataset.arguments, missing.stand_in)
        return (f"dataset.path='{made}'",), f"made-up data in place of {path}"
    arguments = {"samples": 160, "test_samples": 40, **missing.stand_in}
    words = [f"++dataset.{key}={show(value)}" for key, value in arguments.items()]
    # A share, because a count is meant for the real data; 0 stays 0.
    held_out = ["++dataset.val=0.25"] if dataset.common["val"] else ["++dataset.val=0"]
    return ("dataset=synthetic", *words, *held_out), f"synthetic data in place of {dataset.name}"


def images(folder: Path, arguments: Mapping[str, Any], shape: Mapping[str, object]) -> Path:
    """A folder of small pictures, a sub-folder a class."""
    from PIL import Image

    root, generator = folder / "images", numpy.random.default_rng(0)
    for number, name in enumerate(_CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(_ROWS // len(_CLASSES)):
            pixels = generator.integers(0, 128, (16, 16, 3), dtype=numpy.uint8)
            pixels[..., number] += 100
            Image.fromarray(pixels).save(root / name / f"{index:02d}.png")
    return root


def _rows(arguments: Mapping[str, Any], shape: Mapping[str, object]) -> tuple[list[str], list[list[Any]]]:
    """Names and rows of a table with numbers, a column of texts and a target; named as the config says."""
    generator = numpy.random.default_rng(0)
    numbers = generator.normal(size=(_ROWS, 3))
    total = numbers.sum(1)
    regression = shape.get("task") == "regression"
    targets = total.round(4).tolist() if regression else [_CLASSES[int(each > 0)] for each in total]
    texts = [("red", "green", "blue")[row % 3] for row in range(_ROWS)]
    target = arguments.get("target")
    names = ["length", "width", "height", "colour", target if isinstance(target, str) else "kind"]
    rows = [[*map(float, numbers[row].round(4)), texts[row], targets[row]] for row in range(_ROWS)]
    for dropped in arguments.get("drop") or ():
        if isinstance(dropped, str) and dropped not in names:
            names.insert(0, dropped)
            rows = [[number, *row] for number, row in enumerate(rows)]
    return names, rows


def _csv(folder: Path, arguments: Mapping[str, Any], shape: Mapping[str, object]) -> Path:
    path = folder / "data.csv"
    names, rows = _rows(arguments, shape)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([names, *rows])
    return path


def _parquet(folder: Path, arguments: Mapping[str, Any], shape: Mapping[str, object]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path = folder / "data.parquet"
    names, rows = _rows(arguments, shape)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def _npz(folder: Path, arguments: Mapping[str, Any], shape: Mapping[str, object]) -> Path:
    path, generator = folder / "data.npz", numpy.random.default_rng(0)
    inputs = generator.normal(size=(_ROWS, 4)).astype(numpy.float32)
    regression = shape.get("task") == "regression"
    targets = inputs.sum(1) if regression else (inputs.sum(1) > 0).astype(numpy.int64)
    names = (arguments.get("inputs") or "x", arguments.get("targets") or "y")
    numpy.savez(path, **dict(zip(names, (inputs, targets), strict=True)))
    return path


_FILES: Mapping[str, Callable[[Path, Mapping[str, Any], Mapping[str, object]], Path]] = {
    "csv": _csv,
    "parquet": _parquet,
    "npz": _npz,
    "image_folder": images,
}
