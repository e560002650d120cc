"""Where predictions go: the protocol of writers, and what comes of the samples."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

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


class Writer(Protocol):
    """Where predictions go, as a context; what is written appears when it is complete.

    Attributes:
        unit: of the samples, as in :class:`~trainctl.inference.readers.base.Source`.
    """

    unit: str

    def __enter__(self) -> Writer: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...

    def add(self, batch: Batch, predictions: Tensor, outcome: Outcome) -> None:
        """Write a batch; ``predictions`` are those of ``batch.inputs``, in their order."""


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
