"""Read the arrays of an ``.npz`` file, and check that they can be inputs and targets."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from trainctl.errors import ConfigError, StorageError, did_you_mean

Array = np.ndarray[Any, Any]


class Arrays:
    """The arrays in a file; no object is ever unpickled.

    Raises ConfigError for another kind of file and a damaged one, StorageError when it cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.names: list[str] = []
        if zipfile.is_zipfile(file):
            with self._explaining(""), zipfile.ZipFile(file) as archive:
                members = archive.namelist()
            self.names = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
        if not self.names:
            raise ConfigError(
                f"{file} is not an .npz file", "write one with numpy.savez(file, x=inputs, y=targets)"
            )

    def choose(self, key: str, name: str | None, known: Sequence[str], *, optional: bool = False) -> str:
        """The array that ``dataset.KEY`` names, or the first one known; "" when it is optional and absent."""
        there = f"there are: {', '.join(self.names)}"
        if name is not None:
            if name in self.names:
                return name
            hint = did_you_mean(name, self.names, f"dataset.{key}=")
            raise ConfigError(f"dataset.{key}={name}: {self.file} has no such array", f"{hint}{there}")
        found = next((each for each in known if each in self.names), "")
        if not found and not optional:
            raise ConfigError(
                f"{self.file} has no array with a usual name for {key} ({', '.join(known)})",
                f"name one: dataset.{key}=NAME; {there}",
            )
        return found

    def header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        """Shape, storage by columns, and type. Raises ConfigError for Python objects."""
        with self._opened(name) as member:
            shape, by_columns, dtype = _read_header(member)
        if dtype.hasobject:
            raise ConfigError(
                f"{self.file}, {name}: arrays of objects are not read: they could run code",
                "save numbers, array.astype(float), or strings, array.astype(str)",
            )
        return shape, by_columns, dtype

    def read(self, name: str) -> Array:
        self.header(name)
        with self._explaining(name), np.load(self.file, allow_pickle=False) as stored:
            array: Array = stored[name]
        return array

    def slices(self, name: str, size: int) -> Iterator[Array]:
        """All rows, ``size`` at a time; in memory at once are only those, unless it is stored by columns."""
        shape, by_columns, dtype = self.header(name)
        starts = range(0, shape[0], size)
        if by_columns and len(shape) > 1:
            # The first row is not complete before the last column is read.
            whole = self.read(name)
            yield from (whole[start : start + size] for start in starts)
            return
        with self._opened(name) as member:
            _read_header(member)
            for start in starts:
                rows = (min(size, shape[0] - start), *shape[1:])
                content = member.read(math.prod(rows) * dtype.itemsize)
                yield np.frombuffer(content, dtype).reshape(rows)

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        with (
            self._explaining(name),
            zipfile.ZipFile(self.file) as archive,
            archive.open(f"{name}.npy") as member,
        ):
            yield member

    @contextlib.contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        try:
            yield
        except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            what = f"{self.file}, {name}" if name else f"{self.file}"
            raise ConfigError(f"{what} is damaged: {error}", "write or copy the file again") from error
        except OSError as error:
            raise StorageError(f"{self.file} cannot be read: {error}", "check its permissions") from error


def _read_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"unknown format version {'.'.join(map(str, version))}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(member)
    return tuple(map(int, shape)), bool(by_columns), dtype


def to_inputs(file: Path, name: str, array: Array) -> tuple[Tensor, bool]:
    """Inputs as a tensor, and whether channels were moved to the front."""
    if array.dtype.kind not in "biuf":
        raise ConfigError(
            f"{file}, {name}: inputs must be numbers, not {array.dtype}",
            "put text into a table: dataset=csv",
        )
    if array.ndim < 2 or not array.size:
        raise ConfigError(
            f"{file}, {name}: inputs must have the shape (samples, …), not {array.shape}",
            "add a dimension with x[:, None]",
        )
    _refuse_not_finite(file, name, array)
    swapped = array.ndim == 4 and array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)
    if swapped:
        array = np.moveaxis(array, 3, 1)
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
    return torch.from_numpy(np.array(array, order="C")), swapped


def to_targets(file: Path, name: str, array: Array, samples: int) -> Array:
    """Targets as an array of shape (N,), or (N, outputs) with two outputs or more."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2):
        raise ConfigError(
            f"{file}, {name}: targets must have the shape (N,) or (N, outputs), not {array.shape}"
        )
    if len(array) != samples:
        raise ConfigError(
            f"{file}, {name}: {len(array)} targets for {samples} inputs", "give one target a sample"
        )
    if array.dtype.kind not in "biufU":
        raise ConfigError(f"{file}, {name}: targets must be numbers or strings, not {array.dtype}")
    _refuse_not_finite(file, name, array)
    return array


def _refuse_not_finite(file: Path, name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, and are reported
        bad = ~np.isfinite(array.astype(np.float32))
    if bad.any():
        first = ", ".join(str(index) for index in np.argwhere(bad)[0])
        value = array[tuple(np.argwhere(bad)[0])]
        raise ConfigError(
            f"{file}, {name}[{first}]: {value} is not finite in float32; {int(bad.sum())} such values",
            "replace such values, or leave out their samples, before saving the array",
        )
