"""Read the arrays of an ``.npz`` file, and check that they can be inputs and targets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainctl.errors import ConfigError, StorageError, did_you_mean

Array = np.ndarray[Any, Any]


class Arrays:
    """The arrays in a file; no object is ever unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> Arrays:
        if not zipfile.is_zipfile(self.file):
            raise ConfigError(
                f"{self.file} is not an .npz file", "write one with numpy.savez(file, x=inputs, y=targets)"
            )
        try:
            self._stored = np.load(self.file, allow_pickle=False)
        except OSError as error:
            raise StorageError(f"{self.file} cannot be read: {error}", "check its permissions") from error
        except (ValueError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{self.file} is damaged: {error}", "write or copy it again") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stored.close()

    @property
    def names(self) -> str:
        return ", ".join(self._stored.files)

    def choose(self, key: str, name: str | None, known: Sequence[str], *, optional: bool = False) -> str:
        """The array that ``dataset.KEY`` names, or the first one known; "" when it is optional and absent."""
        if name is not None:
            if name in self._stored.files:
                return name
            hint = did_you_mean(name, self._stored.files, f"dataset.{key}=")
            raise ConfigError(
                f"dataset.{key}={name}: {self.file} has no such array", f"{hint}there are: {self.names}"
            )
        found = next((each for each in known if each in self._stored.files), "")
        if not found and not optional:
            raise ConfigError(
                f"{self.file} has no array with a usual name for {key} ({', '.join(known)})",
                f"name one: dataset.{key}=NAME; there are: {self.names or 'none'}",
            )
        return found

    def read(self, name: str) -> Array:
        try:
            stored: Array = self._stored[name]
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise ConfigError(
                    f"{self.file}, {name}: arrays of objects are not read: they could run code",
                    "save numbers, array.astype(float), or strings, array.astype(str)",
                ) from error
            raise ConfigError(f"{self.file}, {name}: {error}", "write or copy the file again") from error
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(
                f"{self.file}, {name} is damaged: {error}", "write or copy the file again"
            ) from error
        return stored


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
