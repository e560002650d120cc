"""Where predictions go: the protocol of writers, and what comes of the samples."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from trainctl.errors import StorageError
from trainctl.inference.readers.base import Batch

_SHOWN_ERRORS = 5


@dataclass
class Outcome:
    """Counts of samples and of those without a prediction (``bad``), and the first errors."""

    samples: int = 0
    bad: int = 0
    errors: list[str] = field(default_factory=list)

    def count(self, unit: str, name: int | str, error: str) -> None:
        """Count the sample ``name``, which has no prediction where there is an ``error``."""
        self.samples += 1
        if error:
            self.bad += 1
            if len(self.errors) < _SHOWN_ERRORS:
                self.errors.append(f"{name if unit == 'file' else f'{unit} {name}'}: {error}")


class Writer(ABC):
    """Where predictions go, as a context; what is written appears when it is complete.

    Attributes:
        unit: of the samples, as in :class:`~trainctl.inference.readers.base.Source`.
    """

    unit: str

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:  # noqa: B027
        """Finish what is written; where there was an error leave nothing."""

    @abstractmethod
    def write(self, name: int | str, values: Any, error: str, note: str) -> None:
        """Write one sample; ``values`` is a prediction of :meth:`rows`, None where there is an ``error``."""

    def rows(self, predictions: Tensor) -> Sequence[Any]:
        """The predictions of a batch, one a sample."""
        return list(predictions)

    def add(self, batch: Batch, predictions: Tensor, outcome: Outcome) -> None:
        """Write a batch; ``predictions`` are those of ``batch.inputs``, in their order."""
        finite = iter(predictions.flatten(1).isfinite().all(1).tolist())
        rows = iter(self.rows(predictions))
        for place, name in enumerate(batch.names):
            error, values = batch.errors.get(place, ""), None
            if not error:
                values = next(rows)
                error = "" if next(finite) else "the model's output is not finite"
            outcome.count(self.unit, name, error)
            self.write(name, None if error else values, error, batch.notes.get(place, ""))


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise StorageError for an OSError in the block."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"--output {path} cannot be written: {error.strerror or error}",
            "free some space, or name another file",
        ) from error
