"""The phase predict: predictions from a file equal those in memory, in one batch and sample by sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor

from trainctl.data.inputs import are_positions, parts_of
from trainctl.data.preprocessing import first_samples
from trainctl.inference.predict import Predictor, predict
from trainctl.inference.readers import open_source
from trainctl.inference.readers.base import Batch, Source
from trainctl.inference.readers.images import takes_images
from trainctl.inference.trained_run import Trained
from trainctl.inference.writers.base import Outcome
from trainctl.inference.writers.masks import Masks
from trainctl.inference.writers.table import Table
from trainctl.smoke.made_up import write_csv
from trainctl.training.prepare_data import build_data

TOLERANCE = 1e-5
_SAMPLES = 8
_Rows = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


def check_predictions(trained: Trained, folder: Path) -> str | None:
    """The first difference between the predictions, or None. Raises the errors of predicting.

    The run's own samples are read from a file in ``folder``: a CSV file for a run on tables, PNG images for a
    run on images, else a ``.npz`` file.
    """
    data = build_data(trained.config.dataset, trained.reading)
    split = next(each for each in (data.test, data.val, data.train) if each is not None and len(each))
    samples = first_samples(split, _SAMPLES).contiguous()
    predictor = Predictor(trained, trained.transform())
    expected = predictor(samples).double().numpy()
    path, settings = _write(trained, samples, folder)
    rows = []
    for size in (len(samples), 1):
        source = open_source(path, trained.raw_sample(), trained.reading, settings)
        if trained.task.masks:
            recorded = _Recorded(folder / f"masks-{size}", source, trained)
            outcome = predict(predictor, source, recorded, size)
            found: Any = torch.cat(recorded.predictions).double().numpy()
        else:
            output = folder / f"predictions-{size}.jsonl"
            outcome = predict(predictor, source, Table(output, source, trained), size)
            found = [_values(json.loads(line)) for line in output.read_text(encoding="utf-8").splitlines()]
        if outcome.errors:
            return outcome.errors[0]
        rows.append(numpy.asarray(found, dtype=numpy.float64))
    whole, single = rows
    if whole.shape != single.shape or whole.shape != expected.shape:
        return f"{len(samples)} samples gave {len(whole)} predictions, one by one {len(single)}"
    # In the unit of the loss, whose sizes are around 1.
    unit = trained.readout.on(torch.device("cpu"))
    scaled = [unit.scaled(torch.from_numpy(each)).numpy() for each in (whole, single, expected)]
    if (row := _differing(scaled[0], scaled[2])) is not None:
        return (
            f"sample {row + 1} in {path.name} is predicted as {_shown(whole[row])}, the same sample in memory"
            f" as {_shown(expected[row])}"
        )
    if (row := _differing(scaled[0], scaled[1])) is not None:
        difference = numpy.abs(whole[row] - single[row]).max()
        return (
            f"a prediction depends on the batch: sample {row + 1} alone differs by {difference:.1e}"
            f" from the same in a batch of {len(samples)}"
        )
    return None


class _Recorded(Masks):
    """Masks, and the probabilities that they are made of."""

    def __init__(self, path: Path, source: Source, trained: Trained) -> None:
        super().__init__(path, source, trained)
        self.predictions: list[Tensor] = []

    def add(self, batch: Batch, predictions: Tensor, outcome: Outcome) -> None:
        self.predictions.append(predictions)
        super().add(batch, predictions, outcome)


def _differing(one: _Rows, other: _Rows) -> int | None:
    """The row with the largest difference, if that exceeds TOLERANCE."""
    difference = numpy.abs(one - other) / numpy.maximum(1.0, numpy.abs(one))
    if not len(difference) or difference.max() <= TOLERANCE:
        return None
    return int(difference.reshape(len(one), -1).max(1).argmax())


def _shown(values: _Rows) -> str:
    more = " …" if values.size > 3 else ""
    return f"{', '.join(f'{value:.6g}' for value in values.flatten()[:3])}{more}"


def _values(row: Mapping[str, Any]) -> list[float]:
    given = row.get("probabilities", row["prediction"])
    values = given.values() if isinstance(given, dict) else given if isinstance(given, list) else [given]
    return list(map(float, values))


# ------------------------------------------------------------------ the file


def _write(trained: Trained, samples: Tensor, folder: Path) -> tuple[Path, dict[str, Any]]:
    """A file or folder with ``samples``, and the dataset's settings to read it with."""
    settings, kind = dict(trained.config.dataset.arguments), trained.reading.get("kind")
    if kind == "table":
        # Training found out whether there is a header; a few rows may look otherwise.
        settings["header"] = bool(trained.reading["named"])
        path = folder / "samples.csv"
        _write_table(path, samples, trained.reading, settings)
    elif kind == "image" and takes_images(trained.raw_sample()):
        path = folder / "samples"
        _write_images(path, samples, int(trained.reading.get("largest", 255)))
    else:
        path = folder / "samples.npz"
        # NumPy has no bfloat16; float32 holds all of its values.
        arrays = [part.float() if part.dtype == torch.bfloat16 else part for part in parts_of(samples)]
        shape = trained.raw_sample()["shape"]
        names = list(shape) if isinstance(shape, dict) and not are_positions(shape) else ()
        if names:
            named: dict[str, Any] = {name: part.numpy() for name, part in zip(names, arrays, strict=True)}
            numpy.savez(path, **named)
        else:
            numpy.savez(path, *(part.numpy() for part in arrays))
    return path, settings


def _write_images(folder: Path, samples: Tensor, white: int) -> None:
    """A PNG for each sample ((N, channels, height, width), values from 0 to ``white``), named in order."""
    folder.mkdir()
    for number, sample in enumerate(samples.permute(0, 2, 3, 1).numpy(), 1):
        pixels = (sample.astype(numpy.float64) * (255 / white)).round().astype(numpy.uint8)
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(folder / f"{number:04d}.png")


def _write_table(
    path: Path, samples: Tensor, reading: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Write the samples with the columns of the run's table at their places, categories as text.

    Unused columns are written, too: a file without header is read by column numbers.
    """
    inputs = {each["number"]: index for index, each in enumerate(reading["columns"])}
    columns = {each["number"]: each for each in (*reading["targets"], *reading["columns"])}
    places = range(1, max(reading["width"], *columns) + 1)
    filler = str((reading["classes"] or ["0"])[0])
    rows = [
        [_cell(columns[place], float(row[inputs[place]])) if place in inputs else filler for place in places]
        for row in samples
    ]
    names = [str(columns[place]["name"]) if place in columns else f"unused {place}" for place in places]
    commas = any(each["comma"] for each in reading["columns"])
    write_csv(path, settings, names, rows, ";" if commas else ",")


def _cell(column: Mapping[str, Any], value: float) -> str:
    """A value of a raw sample as text that is read back as the same value."""
    if math.isnan(value):
        return "NA"
    if column["kind"] == "text":
        return str(column["categories"][int(value)])
    if column["kind"] == "flag":
        return "true" if value else "false"
    if column.get("unit") == "time":
        return datetime.fromtimestamp(value, UTC).replace(tzinfo=None).isoformat()
    number = repr(value).replace(".", ",") if column["comma"] else repr(value)
    return f"{number}{column.get('unit', '')}"
