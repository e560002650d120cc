"""From raw samples to predictions, and to a file of them."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from trainctl.data.preprocessing import shown
from trainctl.errors import ConfigError, StorageError
from trainctl.inference.readers import Batch, Source
from trainctl.inference.trained_run import Trained
from trainctl.runs import files
from trainctl.training import runtime

SUFFIXES = (".csv", ".jsonl")
_SHOWN_ERRORS = 5


class Predictor:
    """Raw samples to probabilities or values, in evaluation mode, batch by batch.

    For classification the softmax of the outputs, which for log-probabilities are the probabilities
    themselves; for regression the outputs as they are. ``precision`` is the run's where it is not said.

    Shape: (N, *raw) → (N, classes) or (N, outputs) float32 on the CPU.
    """

    def __init__(self, trained: Trained, transform: nn.Module, precision: str | None = None) -> None:
        runtime.set_deterministic(trained.config.deterministic)
        runtime.set_matmul_precision(trained.config.train.matmul)
        self.model, self.transform, self.device = trained.model, transform, trained.device
        self.precision = runtime.precision_context(
            precision or trained.config.train.precision, trained.device
        )
        self.finish = finish(trained.task)

    @torch.no_grad()
    def __call__(self, raw: Tensor) -> Tensor:
        inputs = self.transform(raw.to(self.device))
        with self.precision:
            outputs = self.model(inputs)
        result: Tensor = self.finish(outputs.float()).cpu()
        return result


def finish(task: str) -> Callable[[Tensor], Tensor]:
    """What makes of a model's outputs (N, …) what is predicted, (N, classes) or (N, outputs)."""
    if task == "classification":
        return lambda outputs: outputs.softmax(1)
    return lambda outputs: outputs.flatten(1)


# ------------------------------------------------------------------ the file


@dataclass
class Outcome:
    """What a prediction has come to: samples, those of them without one, the first of their errors."""

    samples: int = 0
    bad: int = 0
    errors: list[str] = field(default_factory=list)


class Table:
    """A file of predictions, a line a sample; it has its name only when it is whole.

    In a ``.csv`` the columns are the sample's row or file, the prediction, ``probability_CLASS`` for each
    class, and ``error``, which says why a sample has no prediction. In a ``.jsonl`` a line has the same keys,
    the probabilities as one object.

    Raises StorageError where the disk will not take it.
    """

    def __init__(self, path: Path, name_of: str, classes: Sequence[str], outputs: int) -> None:
        self.path, self.name_of, self.classes = path, name_of, tuple(classes)
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}")
        several = outputs > 1 and not classes
        self.values = (
            [f"prediction_{number}" for number in range(1, outputs + 1)] if several else ["prediction"]
        )
        self.write = self._write_csv if path.suffix.lower() == ".csv" else self._write_json

    def __enter__(self) -> Table:
        with self._on_the_disk():
            self.stream: TextIO = self.temporary.open("w", encoding="utf-8", newline="")
        self.rows = csv.writer(self.stream, lineterminator="\n")
        if self.write == self._write_csv:
            columns = [f"probability_{name}" for name in self.classes]
            self.rows.writerow([self.name_of, *self.values, *columns, "error"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                with contextlib.suppress(OSError):
                    self.stream.close()
                return
            with self._on_the_disk():
                with self.stream:
                    self.stream.flush()
                    os.fsync(self.stream.fileno())
                files.rename(self.temporary, self.path)
        finally:
            with contextlib.suppress(OSError):
                self.temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _on_the_disk(self) -> Any:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"--output {self.path} cannot be written: {error.strerror or error}",
                "free some space, or name another file",
            ) from error

    def add(self, batch: Batch, predictions: Tensor, outcome: Outcome) -> None:
        """Write a batch; ``predictions`` are those of ``batch.inputs``, in their order."""
        rows = iter(zip(predictions.tolist(), predictions.argmax(1).tolist(), strict=True))
        with self._on_the_disk():
            for place, name in enumerate(batch.names):
                error = batch.errors.get(place, "")
                values: list[float] = []
                best = 0
                if not error:
                    values, best = next(rows)
                    if not all(map(math.isfinite, values)):
                        error = "the model's output is not finite"
                outcome.samples += 1
                if error:
                    outcome.bad += 1
                    if len(outcome.errors) < _SHOWN_ERRORS:
                        what = name if self.name_of == "file" else f"{self.name_of} {name}"
                        outcome.errors.append(f"{what}: {error}")
                self.write(name, [] if error else [_shortest(value) for value in values], best, error)

    def _write_csv(self, name: int | str, values: list[float], best: int, error: str) -> None:
        if error:
            blank = [""] * (len(self.values) + len(self.classes))
            self.rows.writerow([name, *blank, error])
        else:
            named = [self.classes[best]] if self.classes else []
            self.rows.writerow([name, *named, *values, ""])

    def _write_json(self, name: int | str, values: list[float], best: int, error: str) -> None:
        row: dict[str, Any] = {self.name_of: name}
        if error:
            row["error"] = error
        elif self.classes:
            row["prediction"] = self.classes[best]
            row["probabilities"] = dict(zip(self.classes, values, strict=True))
        else:
            row["prediction"] = values[0] if len(values) == 1 else values
        self.stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _shortest(value: float) -> float:
    """A float32 with as many digits as tell it from every other."""
    return float(f"{value:.9g}")


def check_output(output: Path, source: Path) -> None:
    """Raise ConfigError where predictions cannot be written to ``output``."""
    if output.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"--output {output}: what it is to be is not known", f"let it end in {' or '.join(SUFFIXES)}"
        )
    if output.is_dir():
        raise ConfigError(
            f"--output {output}: is a folder", f"name a file in it: {output / 'predictions.csv'}"
        )
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}", "make it first")
    if output.exists() and output.resolve() == source.resolve():
        raise ConfigError(f"--output {output}: is the input", "name another file")


def predict(
    predictor: Predictor,
    source: Source,
    table: Table,
    batch_size: int,
    watch: Callable[[Outcome], object] = lambda outcome: None,
) -> Outcome:
    """Predict all of ``source`` into ``table``; ``watch`` is called after each batch.

    Raises ConfigError where there is nothing to predict, or no sample that could be.
    """
    outcome = Outcome()
    with table:
        for batch in source.batches(batch_size):
            table.add(batch, _predicted(predictor, batch, source.name_of), outcome)
            watch(outcome)
        if outcome.bad == outcome.samples:
            why = f": {outcome.errors[0]}" if outcome.errors else ""
            raise ConfigError(
                f"none of {outcome.samples} {table.name_of}s could be predicted{why}", "nothing was written"
            )
    return outcome


def _predicted(predictor: Predictor, batch: Batch, name_of: str) -> Tensor:
    if not len(batch.inputs):
        return torch.empty(0, 1)
    try:
        return predictor(batch.inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        described = {"shape": batch.inputs.shape[1:], "dtype": str(batch.inputs.dtype).removeprefix("torch.")}
        raise ConfigError(
            f"the model does not take samples of shape {shown(described)} ({name_of}s {batch.names[0]} to"
            f" {batch.names[-1]}): {reason}",
            "give samples as in training; or a smaller --batch-size where memory is short",
        ) from error
