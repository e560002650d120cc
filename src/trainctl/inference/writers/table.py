"""Predictions in a table."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from pathlib import Path
from typing import TextIO

import pyarrow
import torch
from torch import Tensor

from trainctl.errors import ConfigError
from trainctl.inference.readers.base import Batch
from trainctl.inference.trained_run import Trained
from trainctl.inference.writers.base import Outcome, storage_errors
from trainctl.runs import files

SUFFIXES = (".csv", ".jsonl")
_LONGEST_HEADER = 1 << 20
_UNITS = ["row"], ["file"]


class Table:
    """A file of predictions, one line a sample; it appears under its name when it is complete.

    In a ``.csv`` the columns are the sample's row or file, those of the task, and ``error``, the reason for a
    missing prediction. In a ``.jsonl`` a line is a JSON object of the same content.

    Raises StorageError where the file cannot be written.
    """

    def __init__(self, path: Path, unit: str, trained: Trained) -> None:
        self.path, self.unit, self.task, self.classes = path, unit, trained.task, trained.classes
        self.digits = trained.readout.digits
        self.columns = trained.task.columns(trained.classes, trained.output_size)
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self.write = self._write_csv if path.suffix.lower() == ".csv" else self._write_json

    def __enter__(self) -> Table:
        with storage_errors(self.path):
            self.stream: TextIO = self.temporary.open("w", encoding="utf-8", newline="")
        self.rows = csv.writer(self.stream, lineterminator="\n")
        if self.write == self._write_csv:
            self.rows.writerow([self.unit, *self.columns, "error"])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with storage_errors(self.path):
                    self.stream.flush()
                    os.fsync(self.stream.fileno())
                    files.rename(self.temporary, self.path)
        finally:
            with contextlib.suppress(OSError):
                self.stream.close()
            with contextlib.suppress(OSError):
                self.temporary.unlink(missing_ok=True)

    def add(self, batch: Batch, predictions: Tensor, outcome: Outcome) -> None:
        if self.write == self._write_csv and not batch.errors and bool(predictions.isfinite().all()):
            outcome.samples += len(batch.names)
            named = zip(batch.names, _rounded(predictions, self.digits), strict=True)
            with storage_errors(self.path):
                self.rows.writerows([name, *self.task.cells(row, self.classes), ""] for name, row in named)
            return
        rows = iter(_rounded(predictions, self.digits))
        with storage_errors(self.path):
            for place, name in enumerate(batch.names):
                error = batch.errors.get(place, "")
                values = [] if error else next(rows)
                if not all(map(math.isfinite, values)):
                    error = "the model's output is not finite"
                outcome.count(self.unit, name, error)
                self.write(name, values, error)

    def _write_csv(self, name: int | str, prediction: list[float], error: str) -> None:
        cells = [""] * len(self.columns) if error else self.task.cells(prediction, self.classes)
        self.rows.writerow([name, *cells, error])

    def _write_json(self, name: int | str, prediction: list[float], error: str) -> None:
        fields = {"error": error} if error else self.task.fields(prediction, self.classes)
        self.stream.write(json.dumps({self.unit: name, **fields}, ensure_ascii=False) + "\n")


def _rounded(predictions: Tensor, digits: int) -> list[list[float]]:
    """The predictions with as many digits as tell an output of the model from every other."""
    if predictions.dtype == torch.float32:
        # The shortest decimals that are read back as the same float32.
        texts = pyarrow.array(predictions.flatten().numpy()).cast(pyarrow.string())
        values = texts.cast(pyarrow.float64()).to_numpy().reshape(predictions.shape)
        rows: list[list[float]] = values.tolist()
        return rows
    return [[float(f"{value:.{digits}g}") for value in row] for row in predictions.tolist()]


def check_file(output: Path, *, replace: bool = False) -> None:
    """Raise ConfigError where no table can be written to the file ``output``.

    A file with something else than predictions is lost only if ``replace``.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output {output}: unknown file type", f"use {' or '.join(SUFFIXES)}")
    if output.is_dir():
        raise ConfigError(
            f"--output {output}: is a folder", f"name a file in it: {output / 'predictions.csv'}"
        )
    if output.exists() and not replace and not _holds_predictions(output):
        raise ConfigError(
            f"--output {output}: exists, and holds no predictions",
            "--force replaces it, or name another file",
        )


def _holds_predictions(path: Path) -> bool:
    """Whether the first line is that of a :class:`Table`, or there is none."""
    try:
        with path.open(encoding="utf-8") as stream:
            line = stream.readline(_LONGEST_HEADER)
        names = [*json.loads(line)] if line.startswith("{") else next(csv.reader([line]), [])
    except (OSError, ValueError, csv.Error):
        return False
    return not line or (names[:1] in _UNITS and (line.startswith("{") or names[-1] == "error"))
