"""Samples in an ``.npz`` file, read slice by slice. Nothing in it is unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainctl.data.arrays import Array, Arrays
from trainctl.data.preprocessing import shown
from trainctl.errors import ConfigError, nearest
from trainctl.inference.readers.base import Batch, convert, require_readable, why_bad

_NAMES = ("x", "X", "inputs", "images", "data", "x_test", "X_test", "test_images")


class HeldArrays:
    """Arrays in memory, with what readers use of :class:`~trainctl.data.arrays.Arrays`."""

    file = Path("inputs")

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays, self.names = arrays, list(arrays)

    def header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        return self._arrays[name].shape, False, self._arrays[name].dtype

    def slices(self, name: str, size: int) -> Iterator[Array]:
        for start in range(0, len(self._arrays[name]), size):
            yield self._arrays[name][start : start + size]


class ArrayFile:
    """One array of the file: the one called ``inputs``, else one with a usual name, else its only one.

    Images of shape (N, H, W, C) and, for one channel, (N, H, W) are reshaped to (N, C, H, W).
    """

    unit = "row"
    has_notes = False

    def __init__(
        self,
        arrays: Arrays | HeldArrays,
        raw: Mapping[str, Any],
        reading: Mapping[str, Any],
        inputs: str | None,
    ) -> None:
        self.arrays, self.raw = arrays, raw
        self.shape = tuple(raw["shape"])
        self.missing_allowed = reading.get("kind") == "table" and reading["missing"] == "mean"
        texts = [each["name"] for each in reading.get("columns", ()) if each["kind"] == "text"]
        if texts:
            raise ConfigError(
                f"{arrays.file}: an array cannot hold the run's text columns ({', '.join(texts)})",
                "use a CSV file, or rows with the names of the columns",
            )
        self.array = self._choose(arrays.names, inputs)
        self.what = f"{arrays.file}, {self.array}"
        self.notices = [f"array {self.array} of {arrays.file.name}"] if len(arrays.names) > 1 else []
        stored, _, self.dtype = self.arrays.header(self.array)
        if not stored:
            raise ConfigError(f"{self.what}: a single number", f"samples are {shown(raw)}")
        self.total, self.done, self.stored_shape = stored[0], 0, stored[1:]
        self.axes = self._axes()
        self._check_type()

    def _choose(self, names: list[str], inputs: str | None) -> str:
        if len(names) == 1:
            return names[0]
        found = next((name for name in (inputs, *_NAMES) if name in names), None)
        if found is None:
            close, there = nearest(inputs or "x", names), ", ".join(names)
            raise ConfigError(
                f"{self.arrays.file} has several arrays, none with the name of the inputs: {there}",
                f"name them {inputs or 'x'}{f', not {close}' if close else ''}: numpy.savez(file, x=inputs)",
            )
        return found

    def _axes(self) -> str:
        """The change from the axes of a stored sample to those of a raw one."""
        if self.stored_shape == self.shape:
            return "same"
        if len(self.shape) == 3 and self.stored_shape == (*self.shape[1:], self.shape[0]):
            self.notices.append("channels last → channels first")
            return "last"
        if len(self.shape) == 3 and self.shape[0] == 1 and self.stored_shape == self.shape[1:]:
            return "grey"
        raise ConfigError(
            f"{self.what}: samples of shape {self.stored_shape}, the run was trained on {shown(self.raw)}",
            "the first dimension counts samples, the others must be those of training",
        )

    def _check_type(self) -> None:
        """uint8 only for uint8: floats from 0 to 1 would be black when they are divided by 255."""
        wanted = self.raw["dtype"]
        require_readable(wanted, self.what)
        fits = self.dtype == np.uint8 if wanted == "uint8" else self.dtype.kind in "biuf"
        if not fits:
            raise ConfigError(
                f"{self.what}: values of type {self.dtype}, the run was trained on {wanted}",
                f"save them as {wanted}: array.astype(numpy.{wanted})",
            )

    def batches(self, size: int) -> Iterator[Batch]:
        for rows in self.arrays.slices(self.array, size):
            yield self._batch(self.done, rows)

    def _batch(self, start: int, rows: Array) -> Batch:
        if self.axes == "last":
            rows = np.moveaxis(rows, 3, 1)
        elif self.axes == "grey":
            rows = rows[:, None]
        wanted = self.raw["dtype"]
        inputs, bad = convert(rows, wanted, missing_allowed=self.missing_allowed)
        errors = {}
        for place in np.flatnonzero(bad.reshape(len(rows), -1).any(1)).tolist():
            index = (start + place, *np.argwhere(bad[place])[0].tolist())
            value = rows[place][tuple(index[1:])]
            errors[place] = f"{self.array}[{', '.join(map(str, index))}]: {value} {why_bad(value, wanted)}"
        self.done = start + len(rows)
        good = [place for place in range(len(rows)) if place not in errors]
        names = tuple(range(start + 1, start + len(rows) + 1))
        return Batch(names, inputs if not errors else inputs[good], errors)

    def remarks(self) -> list[str]:
        return []
