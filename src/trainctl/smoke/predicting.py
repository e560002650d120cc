"""Predictions of a trained model, from a file to a file: whole and sample by sample they are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy
from torch import Tensor

from trainctl import preparing
from trainctl.build import build_data
from trainctl.inputs import Batch, Source, open_source
from trainctl.loading import Trained
from trainctl.prediction import Predictor, Table, predict

TOLERANCE = 1e-5
_SAMPLES = 8


class _Samples:
    """Raw samples as a source: what is in them cannot stand in a file of arrays."""

    name_of = "row"

    def __init__(self, samples: Tensor) -> None:
        self.samples, self.total, self.done = samples, len(samples), 0
        self.notices: list[str] = []

    def batches(self, size: int) -> Iterator[Batch]:
        for start in range(0, self.total, size):
            part = self.samples[start : start + size]
            yield Batch(tuple(range(start + 1, start + 1 + len(part))), part)

    def remarks(self) -> list[str]:
        return []


def check_predictions(trained: Trained, folder: Path) -> str | None:
    """What is wrong with the predictions, or None. Raises what predicting raises."""
    samples = _raw(trained)
    rows = []
    for size in (len(samples), 1):
        predictor = Predictor(trained, trained.transform())
        source = _source(trained, samples, folder)
        output = folder / f"predictions-{size}.jsonl"
        table = Table(output, source.name_of, trained.classes, trained.output_size)
        outcome = predict(predictor, source, table, size)
        if outcome.errors:
            return outcome.errors[0]
        rows.append([_values(json.loads(line)) for line in output.read_text().splitlines()])
    whole, single = (numpy.asarray(each, dtype=numpy.float64) for each in rows)
    if whole.shape != single.shape or len(whole) != len(samples):
        return f"{len(samples)} samples gave {len(whole)} predictions, one by one {len(single)}"
    difference = numpy.abs(whole - single) / numpy.maximum(1.0, numpy.abs(whole))
    if difference.max() > TOLERANCE:
        row = int(difference.reshape(len(whole), -1).max(1).argmax())
        return (
            f"a prediction depends on the batch: sample {row + 1} alone differs by {difference.max():.1e}"
            f" from the same in a batch of {len(samples)}"
        )
    return None


def _raw(trained: Trained) -> Tensor:
    data = build_data(trained.config.dataset, trained.reading)
    split = next(each for each in (data.test, data.val, data.train) if each is not None and len(each))
    return preparing.first_samples(split, _SAMPLES).contiguous()


def _source(trained: Trained, samples: Tensor, folder: Path) -> Source:
    if any(each["kind"] == "text" for each in trained.reading.get("columns", ())):
        return _Samples(samples)
    path = folder / "samples.npz"
    numpy.savez(path, x=samples.numpy())
    return open_source(path, trained.raw_sample(), trained.reading, {})


def _values(row: dict[str, object]) -> list[float]:
    given = row.get("probabilities", row["prediction"])
    if isinstance(given, dict):
        return [float(each) for each in given.values()]
    return [float(each) for each in given] if isinstance(given, list) else [float(str(given))]
