"""Samples of several inputs in an ``.npz`` file, an array for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trainctl.data.arrays import Arrays
from trainctl.data.inputs import Inputs, are_positions
from trainctl.data.preprocessing import shown
from trainctl.errors import ConfigError
from trainctl.inference.readers.arrays import ArrayFile, HeldArrays
from trainctl.inference.readers.base import Batch


class SeveralArrays:
    """One array of the file for each input, by its name; ``numpy.savez(file, a, b)`` names positions."""

    unit = "row"
    has_notes = False

    def __init__(self, arrays: Arrays | HeldArrays, raw: Mapping[str, Any]) -> None:
        names = list(raw["shape"])
        stored = [f"arr_{name}" for name in names] if are_positions(raw["shape"]) else names
        if absent := [name for name in stored if name not in arrays.names]:
            raise ConfigError(
                f"{arrays.file}: no array {', '.join(absent)}; there are: {', '.join(arrays.names)}",
                f"the run was trained on {shown(raw)}: save an array for each of {', '.join(stored)}",
            )
        self.files = {
            name: ArrayFile(arrays, {key: raw[key][name] for key in ("shape", "dtype")}, {}, array)
            for name, array in zip(names, stored, strict=True)
        }
        totals = {name: file.total for name, file in self.files.items()}
        self.total, self.done = min(totals.values()), 0
        if self.total != max(totals.values()):
            counts = ", ".join(f"{total} of {name}" for name, total in totals.items())
            raise ConfigError(f"{arrays.file}: {counts}", "give each array a row for each sample")
        self.notices = [notice for file in self.files.values() for notice in file.notices]

    def batches(self, size: int) -> Iterator[Batch]:
        for batches in zip(*(file.batches(size) for file in self.files.values()), strict=True):
            errors: dict[int, str] = {}
            for batch in batches:
                errors |= batch.errors
            parts = {}
            for name, batch in zip(self.files, batches, strict=True):
                read = [place for place in range(len(batch.names)) if place not in batch.errors]
                good = [row for row, place in enumerate(read) if place not in errors]
                parts[name] = batch.inputs[torch.tensor(good, dtype=torch.int64)]
            self.done = min(file.done for file in self.files.values())
            yield Batch(batches[0].names, Inputs(parts), errors)  # type: ignore[arg-type]

    def remarks(self) -> list[str]:
        return []
