"""Samples in an ``.npz`` file, read slice by slice. Nothing in it is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from trainctl.data.arrays import Array
from trainctl.data.preprocessing import shown
from trainctl.errors import ConfigError, nearest
from trainctl.inference.readers.base import Batch, convert, require_readable, why_bad

_NAMES = ("x", "X", "inputs", "images", "data", "x_test", "X_test", "test_images")
_DAMAGED = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


class ArrayFile:
    """One array of the file: the one called ``inputs``, else one with a usual name, else its only one.

    Images of shape (N, H, W, C) and, for one channel, (N, H, W) are reshaped to (N, C, H, W).
    """

    unit = "row"

    def __init__(
        self, path: Path, raw: Mapping[str, Any], reading: Mapping[str, Any], inputs: str | None
    ) -> None:
        self.path, self.raw = path, raw
        self.shape = tuple(raw["shape"])
        self.missing_allowed = reading.get("kind") == "table" and reading["missing"] == "mean"
        texts = [each["name"] for each in reading.get("columns", ()) if each["kind"] == "text"]
        if texts:
            raise ConfigError(
                f"--input {path}: an array cannot hold the run's text columns ({', '.join(texts)})",
                "use a CSV file",
            )
        with self._archive() as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        self.array = self._choose(names, inputs)
        self.notices = [f"array {self.array} of {path.name}"] if len(names) > 1 else []
        self.done = 0
        stored, self.order, self.dtype = self._header()
        if not stored:
            raise ConfigError(f"{path}, {self.array}: a single number", f"samples are {shown(raw)}")
        self.total, self.stored_shape = stored[0], tuple(stored[1:])
        self.axes = self._axes()
        self._check_type()

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{self.path} is damaged: {error}", "write or copy it again") from error

    def _choose(self, names: list[str], inputs: str | None) -> str:
        if not names:
            raise ConfigError(
                f"{self.path} is not an .npz file", "write one with numpy.savez(file, x=inputs)"
            )
        if len(names) == 1:
            return names[0]
        found = next((name for name in (inputs, *_NAMES) if name in names), None)
        if found is None:
            close = nearest(inputs or "x", names)
            raise ConfigError(
                f"{self.path} has several arrays, none with the name of the inputs: {', '.join(names)}",
                f"name them {inputs or 'x'}{f', not {close}' if close else ''}: numpy.savez(file, x=inputs)",
            )
        return found

    def _header(self) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        try:
            with self._archive() as archive, archive.open(f"{self.array}.npy") as member:
                return _read_header(member)
        except _DAMAGED as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ConfigError:
        return ConfigError(f"{self.path}, {self.array} is damaged: {error}", "write or copy it again")

    def _axes(self) -> str:
        """How the axes of a stored sample become those of a raw one."""
        if self.stored_shape == self.shape:
            return "same"
        if len(self.shape) == 3 and self.stored_shape == (*self.shape[1:], self.shape[0]):
            self.notices.append("channels last → channels first")
            return "last"
        if len(self.shape) == 3 and self.shape[0] == 1 and self.stored_shape == self.shape[1:]:
            return "grey"
        raise ConfigError(
            f"{self.path}, {self.array}: samples of shape {self.stored_shape}, the run was trained on"
            f" {shown(self.raw)}",
            "the first dimension counts samples, the others must be those of training",
        )

    def _check_type(self) -> None:
        """uint8 only for uint8: floats from 0 to 1 would be black when they are divided by 255."""
        if self.dtype.hasobject:
            raise ConfigError(
                f"{self.path}, {self.array}: an array of Python objects can run code when it is read",
                "save it as an array of numbers: array.astype(float)",
            )
        wanted = self.raw["dtype"]
        require_readable(wanted, f"--input {self.path}")
        fits = self.dtype == np.uint8 if wanted == "uint8" else self.dtype.kind in "biuf"
        if not fits:
            raise ConfigError(
                f"{self.path}, {self.array}: values of type {self.dtype}, the run was trained on {wanted}",
                f"save them as {wanted}: array.astype(numpy.{wanted})",
            )

    def batches(self, size: int) -> Iterator[Batch]:
        try:
            yield from self._batches(size)
        except _DAMAGED as error:
            raise self._damaged(error) from error

    def _batches(self, size: int) -> Iterator[Batch]:
        with self._archive() as archive, archive.open(f"{self.array}.npy") as member:
            _read_header(member)
            whole = None
            if self.order and len(self.stored_shape):
                # By columns: the first sample is not complete before the last column is read.
                with np.load(self.path, allow_pickle=False) as stored:
                    whole = stored[self.array]
            row_bytes = self.dtype.itemsize * int(np.prod(self.stored_shape, dtype=np.int64))
            for start in range(0, self.total, size):
                count = min(size, self.total - start)
                if whole is not None:
                    rows = whole[start : start + count]
                else:
                    content = _read_exactly(member, count * row_bytes)
                    rows = np.frombuffer(content, self.dtype).reshape(count, *self.stored_shape)
                yield self._batch(start, rows)

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


def _read_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown format version {'.'.join(map(str, version))}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return tuple(int(size) for size in shape), bool(fortran), dtype


def _read_exactly(member: Any, count: int) -> bytes:
    content: bytes = member.read(count)
    if len(content) != count:
        raise EOFError(f"{len(content)} bytes instead of {count}")
    return content
