"""Raw samples to predictions, and predictions to a file."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pyarrow
import torch
from torch import Tensor, nn

from trainctl.data.preprocessing import describe_samples, shown
from trainctl.errors import ConfigError, StorageError
from trainctl.inference.readers.base import Batch, Source
from trainctl.inference.trained_run import Trained
from trainctl.runs import files
from trainctl.training import runtime

SUFFIXES = (".csv", ".jsonl")
_SHOWN_ERRORS, _LONGEST_HEADER = 5, 1 << 20
_UNITS = ["row"], ["file"]


class Predictor:
    """Raw samples to the predictions of the task, in evaluation mode, one batch a call.

    ``precision`` defaults to the run's.

    Shape: (N, *raw) → (N, classes) or (N, outputs) on the CPU, float32 or, of scaled targets, float64.
    """

    def __init__(self, trained: Trained, transform: nn.Module, precision: str | None = None) -> None:
        runtime.set_deterministic(trained.config.deterministic)
        torch.set_float32_matmul_precision(trained.config.train.matmul)
        self.model, self.transform, self.device = trained.model, transform, trained.device
        precision = precision or trained.config.train.precision
        self.precision = runtime.precision_context(precision, trained.device)
        self.task, self.readout = trained.task, trained.readout

    @torch.no_grad()
    def __call__(self, raw: Tensor) -> Tensor:
        inputs = self.transform(raw.to(self.device))
        with self.precision:
            outputs = self.model(inputs)
        return self.task.predict(self.readout(outputs.float())).cpu()


@dataclass
class Outcome:
    """Counts of samples and of those without a prediction (``bad``), and the first errors."""

    samples: int = 0
    bad: int = 0
    errors: list[str] = field(default_factory=list)


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
        with self._storage_errors():
            self.stream: TextIO = self.temporary.open("w", encoding="utf-8", newline="")
        self.rows = csv.writer(self.stream, lineterminator="\n")
        if self.write == self._write_csv:
            self.rows.writerow([self.unit, *self.columns, "error"])
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with self._storage_errors():
                    self.stream.flush()
                    os.fsync(self.stream.fileno())
                    files.rename(self.temporary, self.path)
        finally:
            with contextlib.suppress(OSError):
                self.stream.close()
            with contextlib.suppress(OSError):
                self.temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"--output {self.path} cannot be written: {error.strerror or error}",
                "free some space, or name another file",
            ) from error

    def add(self, batch: Batch, predictions: Tensor, outcome: Outcome) -> None:
        """Write a batch; ``predictions`` are those of ``batch.inputs``, in their order."""
        if self.write == self._write_csv and not batch.errors and bool(predictions.isfinite().all()):
            outcome.samples += len(batch.names)
            named = zip(batch.names, _rounded(predictions, self.digits), strict=True)
            with self._storage_errors():
                self.rows.writerows([name, *self.task.cells(row, self.classes), ""] for name, row in named)
            return
        rows = iter(_rounded(predictions, self.digits))
        with self._storage_errors():
            for place, name in enumerate(batch.names):
                error = batch.errors.get(place, "")
                values = [] if error else next(rows)
                if not all(map(math.isfinite, values)):
                    error = "the model's output is not finite"
                outcome.samples += 1
                if error:
                    outcome.bad += 1
                    if len(outcome.errors) < _SHOWN_ERRORS:
                        what = name if self.unit == "file" else f"{self.unit} {name}"
                        outcome.errors.append(f"{what}: {error}")
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


def check_output(output: Path, source: Path, *, replace: bool = False) -> None:
    """Raise ConfigError where predictions cannot be written to ``output``.

    A file with something else than predictions is lost only if ``replace``.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output {output}: unknown file type", f"use {' or '.join(SUFFIXES)}")
    if output.is_dir():
        raise ConfigError(
            f"--output {output}: is a folder", f"name a file in it: {output / 'predictions.csv'}"
        )
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}", "create it first")
    if output.exists() and output.resolve() == source.resolve():
        raise ConfigError(f"--output {output}: is the input file", "name another file")
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


def predict(
    predictor: Predictor,
    source: Source,
    table: Table,
    batch_size: int,
    watch: Callable[[Outcome], object] = lambda outcome: None,
) -> Outcome:
    """Predict all of ``source`` into ``table``; ``watch`` is called after each batch.

    Raises ConfigError where no sample could be predicted.
    """
    outcome = Outcome()
    with table:
        for batch in source.batches(batch_size):
            table.add(batch, _predicted(predictor, batch, batch_size, source.unit), outcome)
            watch(outcome)
        if outcome.bad == outcome.samples:
            why = f": {outcome.errors[0]}" if outcome.errors else ""
            raise ConfigError(
                f"none of {outcome.samples} {table.unit}s could be predicted{why}", "nothing was written"
            )
    return outcome


def _predicted(predictor: Predictor, batch: Batch, size: int, unit: str) -> Tensor:
    if not len(batch.inputs):
        return torch.empty(0, 1)
    try:
        return torch.cat([predictor(part) for part in torch.split(batch.inputs, size)])
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the model does not accept samples of shape {shown(describe_samples(batch.inputs))}"
            f" ({unit}s {batch.names[0]} to {batch.names[-1]}): {reason}",
            "use samples as in training, or a smaller --batch-size if memory ran out",
        ) from error
