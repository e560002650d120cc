"""Predictions in a table."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from pathlib import Path
from typing import Any, TextIO

import pyarrow
import torch
from torch import Tensor

from trainctl.errors import ConfigError
from trainctl.inference.readers.base import Batch, Source
from trainctl.inference.trained_run import Trained
from trainctl.inference.writers.base import Outcome, Writer, storage_errors
from trainctl.runs import files

SUFFIXES = (".csv", ".jsonl")
_LONGEST_HEADER = 1 << 20
_UNITS = ["row"], ["file"]


class Records(Writer):
    """Predictions as plain values: ``records`` has one for each sample, of the content of a line of JSON."""

    def __init__(self, source: Source, trained: Trained) -> None:
        self.unit, self.task, self.classes = source.unit, trained.task, trained.classes
        self.digits = trained.readout.digits
        self.records: list[dict[str, Any]] = []

    def rows(self, predictions: Tensor) -> list[list[float]]:
        """The predictions with as many digits as tell an output of the model from every other."""
        if predictions.dtype == torch.float32:
            # The shortest decimals that are read back as the same float32.
            texts = pyarrow.array(predictions.flatten().numpy()).cast(pyarrow.string())
            values = texts.cast(pyarrow.float64()).to_numpy().reshape(predictions.shape)
            rows: list[list[float]] = values.tolist()
            return rows
        return [[float(f"{value:.{self.digits}g}") for value in row] for row in predictions.tolist()]

    def write(self, name: int | str, values: Any, error: str, note: str) -> None:
        self.records.append(self.record(name, values, error, note))

    def record(self, name: int | str, values: Any, error: str, note: str) -> dict[str, Any]:
        """One sample: its row or file, what the task predicts or the error, and the note if there is one."""
        fields = {"error": error} if error else self.task.fields(values, self.classes)
        return {self.unit: name, **fields, **({"note": note} if note else {})}


class Table(Records):
    """A file of predictions, one line a sample; it appears under its name when it is complete.

    In a ``.csv`` the columns are the sample's row or file, those of the task, ``note`` where the run has
    categories, and ``error``, the reason for a missing prediction. In a ``.jsonl`` a line is a JSON object of
    the same content.

    Raises StorageError where the file cannot be written.
    """

    def __init__(self, path: Path, source: Source, trained: Trained) -> None:
        super().__init__(source, trained)
        self.path, self.is_csv, self.has_notes = path, path.suffix.lower() == ".csv", source.has_notes
        self.columns = trained.task.columns(trained.classes, trained.output_size)
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def __enter__(self) -> Table:
        with storage_errors(self.path):
            self.stream: TextIO = self.temporary.open("w", encoding="utf-8", newline="")
        self.lines = csv.writer(self.stream, lineterminator="\n")
        if self.is_csv:
            self.lines.writerow([self.unit, *self.columns, *["note"] * self.has_notes, "error"])
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
        plain = self.is_csv and not batch.errors and not batch.notes
        if not plain or not bool(predictions.isfinite().all()):
            super().add(batch, predictions, outcome)
            return
        outcome.samples += len(batch.names)
        rest = [""] * (1 + self.has_notes)
        named = zip(batch.names, self.rows(predictions), strict=True)
        with storage_errors(self.path):
            self.lines.writerows([name, *self.task.cells(row, self.classes), *rest] for name, row in named)

    def write(self, name: int | str, values: Any, error: str, note: str) -> None:
        with storage_errors(self.path):
            if self.is_csv:
                cells = [""] * len(self.columns) if error else self.task.cells(values, self.classes)
                self.lines.writerow([name, *cells, *[note] * self.has_notes, error])
            else:
                record = self.record(name, values, error, note)
                self.stream.write(json.dumps(record, ensure_ascii=False) + "\n")


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
