"""Predictions of a trained model, from a file to a file: as in memory, whole and sample by sample."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from PIL import Image
from torch import Tensor

from trainctl.data import preprocessing as preparing
from trainctl.data.tables.text import choose_delimiter
from trainctl.inference.predict import Predictor, Table, predict
from trainctl.inference.readers import open_source
from trainctl.inference.readers.images import takes_images
from trainctl.inference.trained_run import Trained
from trainctl.training.prepare_data import build_data

TOLERANCE = 1e-5
_SAMPLES = 8
_Rows = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


def check_predictions(trained: Trained, folder: Path) -> str | None:
    """What is wrong with the predictions, or None. Raises what predicting raises.

    The samples are the run's own, in a file of the kind that people would have them in: a table for a run on
    tables, pictures for a run on pictures, else arrays.
    """
    samples = _raw(trained)
    predictor = Predictor(trained, trained.transform())
    expected = predictor(samples).double().numpy()
    path, settings = _write(trained, samples, folder)
    rows = []
    for size in (len(samples), 1):
        source = open_source(path, trained.raw_sample(), trained.reading, settings)
        output = folder / f"predictions-{size}.jsonl"
        table = Table(output, source.name_of, trained.classes, trained.output_size)
        outcome = predict(predictor, source, table, size)
        if outcome.errors:
            return outcome.errors[0]
        found = [_values(json.loads(line)) for line in output.read_text(encoding="utf-8").splitlines()]
        rows.append(numpy.asarray(found, dtype=numpy.float64))
    whole, single = rows
    if whole.shape != single.shape or whole.shape != expected.shape:
        return f"{len(samples)} samples gave {len(whole)} predictions, one by one {len(single)}"
    if (row := _differing(whole, expected)) is not None:
        return (
            f"sample {row + 1} in {path.name} is predicted as {_shown(whole[row])}, the same sample in memory"
            f" as {_shown(expected[row])}"
        )
    if (row := _differing(whole, single)) is not None:
        difference = numpy.abs(whole[row] - single[row]).max()
        return (
            f"a prediction depends on the batch: sample {row + 1} alone differs by {difference:.1e}"
            f" from the same in a batch of {len(samples)}"
        )
    return None


def _raw(trained: Trained) -> Tensor:
    data = build_data(trained.config.dataset, trained.reading)
    split = next(each for each in (data.test, data.val, data.train) if each is not None and len(each))
    return preparing.first_samples(split, _SAMPLES).contiguous()


def _differing(one: _Rows, other: _Rows) -> int | None:
    """The row in which they differ the most, by more than is allowed."""
    difference = numpy.abs(one - other) / numpy.maximum(1.0, numpy.abs(one))
    if not len(difference) or difference.max() <= TOLERANCE:
        return None
    return int(difference.reshape(len(one), -1).max(1).argmax())


def _shown(values: _Rows) -> str:
    more = " …" if values.size > 3 else ""
    return f"{', '.join(f'{value:.6g}' for value in values.flatten()[:3])}{more}"


def _values(row: dict[str, object]) -> list[float]:
    given = row.get("probabilities", row["prediction"])
    if isinstance(given, dict):
        return [float(each) for each in given.values()]
    return [float(each) for each in given] if isinstance(given, list) else [float(str(given))]


# ------------------------------------------------------------------ the file


def _write(trained: Trained, samples: Tensor, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A file or folder that holds ``samples``, and the dataset's settings that it is read with."""
    settings, kind = dict(trained.config.dataset.arguments), trained.reading.get("kind")
    if kind == "table":
        # Whether there is a header was found out in training; a guess from a few rows could be another.
        settings["header"] = bool(trained.reading["named"])
        return _write_table(folder / "samples.csv", samples, trained.reading, settings), settings
    if kind == "image" and takes_images(trained.raw_sample()):
        white = int(trained.reading.get("largest", 255))
        return _write_pictures(folder / "samples", samples, white), settings
    path = folder / "samples.npz"
    # NumPy has no bfloat16; float32 holds all of its values.
    arrays = samples.float() if str(samples.dtype) == "torch.bfloat16" else samples
    numpy.savez(path, x=arrays.numpy())
    return path, settings


def _write_pictures(folder: Path, samples: Tensor, white: int) -> Path:
    """A PNG a sample, in the order of their names; the samples' white is ``white``."""
    folder.mkdir()
    for number, sample in enumerate(samples.permute(0, 2, 3, 1).numpy(), 1):
        pixels = (sample.astype(numpy.float64) * (255 / white)).round().astype(numpy.uint8)
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(folder / f"{number:04d}.png")
    return folder


def _write_table(
    path: Path, samples: Tensor, reading: Mapping[str, Any], settings: Mapping[str, Any]
) -> Path:
    """Rows as the run's table has them: its columns at their places, text for the codes of categories.

    Columns that the run does not use are there as well: those of a file without names are found by number.
    """
    used = {each["number"]: place for place, each in enumerate(reading["columns"])}
    columns = {each["number"]: each for each in (reading["target"], *reading["columns"])}
    places = range(1, max(reading["width"], *columns) + 1)
    filler = str((reading["classes"] or ["0"])[0])
    table = [
        [_cell(columns[place], float(row[used[place]])) if place in used else filler for place in places]
        for row in samples
    ]
    header = [str(columns[place]["name"]) if place in columns else f"unused {place}" for place in places]
    asked = str(settings.get("delimiter", "auto"))
    commas = any(each["comma"] for each in reading["columns"])
    delimiter = (";" if commas else ",") if asked == "auto" else choose_delimiter("", "", asked, 0)
    encoding = str(settings.get("encoding", "auto"))
    with path.open("w", newline="", encoding="utf-8" if encoding == "auto" else encoding) as stream:
        stream.write("a line above the table\n" * int(settings.get("skip_lines", 0)))
        csv.writer(stream, delimiter=delimiter).writerows([*([header] if settings["header"] else []), *table])
    return path


def _cell(column: Mapping[str, Any], value: float) -> str:
    """One value of a raw sample, as a text table holds it: numbers are read back as the same."""
    if math.isnan(value):
        return "NA"
    if column["kind"] == "text":
        return str(column["categories"][int(value)])
    if column["kind"] == "flag":
        return "true" if value else "false"
    return repr(value).replace(".", ",") if column["comma"] else repr(value)
