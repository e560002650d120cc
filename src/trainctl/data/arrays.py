"""Reading the arrays of an ``.npz`` file, and checking that they can be inputs and targets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainctl.errors import ConfigError, StorageError, nearest

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
            raise ConfigError(f"{self.file} is damaged: {error}", "write or copy it once more") from error
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
            close = nearest(name, self._stored.files)
            hint = f"did you mean dataset.{key}={close}? " if close else ""
            raise ConfigError(
                f"dataset.{key}={name}: {self.file} has no such array", f"{hint}it holds {self.names}"
            )
        found = next((each for each in known if each in self._stored.files), "")
        if not found and not optional:
            raise ConfigError(
                f"{self.file} has no array with a usual name for {key} ({', '.join(known)})",
                f"name it: dataset.{key}=NAME; it holds {self.names or 'nothing'}",
            )
        return found

    def read(self, name: str) -> Array:
        try:
            stored: Array = self._stored[name]
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise ConfigError(
                    f"{self.file}, {name}: an array of objects, which could run code when it is read",
                    "save it as an array of numbers: array.astype(float), or of strings: astype(str)",
                ) from error
            raise ConfigError(f"{self.file}, {name}: {error}", "write or copy the file once more") from error
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ConfigError(
                f"{self.file}, {name} is damaged: {error}", "write or copy the file once more"
            ) from error
        return stored


def to_inputs(file: Path, name: str, array: Array) -> tuple[Tensor, bool]:
    """Inputs as a tensor, and whether channels were moved to the front."""
    if array.dtype.kind not in "biuf":
        raise ConfigError(
            f"{file}, {name}: inputs of type {array.dtype}",
            "inputs are numbers; text belongs in a table (csv)",
        )
    if array.ndim < 2 or not array.size:
        raise ConfigError(
            f"{file}, {name}: shape {array.shape}",
            "inputs have a first dimension of samples, and at least one more: x[:, None] makes it",
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
            f"{file}, {name}: shape {array.shape}", "targets have the shape (N,) or (N, outputs)"
        )
    if len(array) != samples:
        raise ConfigError(
            f"{file}, {name}: {len(array)} targets for {samples} inputs", "each sample has one target"
        )
    if array.dtype.kind not in "biufU":
        raise ConfigError(f"{file}, {name}: targets of type {array.dtype}", "save numbers or strings")
    _refuse_not_finite(file, name, array)
    return array


def _refuse_not_finite(file: Path, name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is named here
        bad = ~np.isfinite(array.astype(np.float32))
    if bad.any():
        first = ", ".join(str(index) for index in np.argwhere(bad)[0])
        value = array[tuple(np.argwhere(bad)[0])]
        raise ConfigError(
            f"{file}, {name}[{first}]: {value} is not finite in float32; {int(bad.sum())} such values",
            "replace such values, or leave their samples out, before you save the array",
        )


__all__ = ["Array", "Arrays", "to_inputs", "to_targets"]
