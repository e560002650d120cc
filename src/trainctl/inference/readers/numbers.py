"""Numbers of files in the type of the samples that a run was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainctl.data.arrays import Array
from trainctl.errors import ConfigError

# NumPy has no bfloat16: torch rounds to it.
_READ_AS: Mapping[str, Any] = {
    "bool": np.bool_,
    "bfloat16": np.float32,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
EXACT = 2.0**53
"""From here on float64, in which the cells of a text are read, does not hold every whole number."""


def require_readable(wanted: str, what: str) -> None:
    """Raise ConfigError where samples of the type ``wanted`` are in no file that is read here."""
    if wanted not in _READ_AS:
        raise ConfigError(f"{what}: the run was trained on {wanted}, which cannot be read from a file")


def fit(values: Array, wanted: str, *, may_lack: bool) -> tuple[Tensor, Array]:
    """``values`` in the type ``wanted``, and where that cannot hold them.

    A float is rounded, as it was for training. A whole number is not: half of a token is none, and a number
    that is too large would become another one. NaN is a value that is missing, where ``may_lack``.

    Shape: (N, …) of numbers → (N, …) of ``wanted``, (N, …) bool.
    """
    kind = np.dtype(_READ_AS[wanted])
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is found below, and named
        fitted = np.array(values, dtype=kind, order="C")
        if kind.kind == "f":
            tensor = torch.from_numpy(fitted).to(getattr(torch, wanted))
            bad = torch.isinf(tensor) if may_lack else ~torch.isfinite(tensor)
            return tensor, bad.numpy()
        if kind.kind == "b":
            least, most = 0, 1
        else:
            least, most = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
        if values.dtype.kind == "f":
            # As floats: most + 1 is a power of two, and so exact where most is not.
            strange = (values != np.trunc(values)) | ~((values >= float(least)) & (values < float(most + 1)))
        elif values.dtype.kind == "b":
            strange = np.zeros(values.shape, dtype=bool)
        else:
            strange = (values < least) | (values > most)
    return torch.from_numpy(fitted), strange


def why_unfit(value: Any, wanted: str) -> str:
    """Why ``value`` is none of ``wanted``, for people."""
    if np.dtype(_READ_AS[wanted]).kind == "f":
        return f"is not finite in {wanted}"
    if np.isfinite(value) and value != np.trunc(value):
        return f"is no whole number, and the run was trained on {wanted}"
    return f"does not fit into {wanted}, which the run was trained on"
