"""Samples that are in memory, read like those in files: the input of ``trainctl.load(RUN).predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import torch
from PIL import Image

from trainctl.data.arrays import Array
from trainctl.data.inputs import are_positions
from trainctl.data.preprocessing import shown
from trainctl.errors import ConfigError
from trainctl.inference.readers import open_source
from trainctl.inference.readers.arrays import ArrayFile, HeldArrays
from trainctl.inference.readers.arrow import HeldRows
from trainctl.inference.readers.base import Source
from trainctl.inference.readers.images import HeldImages, takes_images
from trainctl.inference.readers.several import SeveralArrays
from trainctl.inference.readers.texts import HeldTexts

_HELP = "give rows as dicts or a DataFrame, an array or tensor of raw samples, images, or a path"


def held_source(
    inputs: Any, raw: Mapping[str, Any], reading: Mapping[str, Any], dataset: Mapping[str, Any]
) -> Source:
    """The reader for samples that a program holds; arguments as of :func:`open_source`.

    Args:
        inputs: a path; rows, as dicts, as a DataFrame of pandas or polars, or as an arrow table; for a run on
            texts, a list of them; images of Pillow; an array or tensor of raw samples (N, *raw), or one of
            them; for a run with several inputs, a dict or tuple of arrays.

    Raises ConfigError where these are no samples like those of training.
    """
    if isinstance(inputs, str | Path):
        return open_source(Path(inputs).expanduser(), raw, reading, dataset)
    if isinstance(raw["shape"], Mapping):
        return SeveralArrays(HeldArrays(_by_name(inputs, raw)), raw)
    if isinstance(inputs, Image.Image):
        inputs = [inputs]
    if _all_are(inputs, Image.Image):
        if not takes_images(raw):
            raise ConfigError(f"inputs are images, the run was trained on {shown(raw)}", _HELP)
        return HeldImages(inputs, raw, reading)
    if _all_are(inputs, str) and reading.get("kind") == "texts":
        inputs = [{reading["columns"][0]["name"]: text} for text in inputs]
    if (columns := _columns(inputs)) is not None:
        if reading.get("kind") not in ("table", "columns", "texts"):
            raise ConfigError(f"inputs are rows of a table, the run was trained on {shown(raw)}", _HELP)
        kind = HeldTexts if reading.get("kind") == "texts" else HeldRows
        return kind(pyarrow.table(columns), raw, reading, dataset)
    known = {} if reading.get("kind") == "texts" else reading
    return ArrayFile(HeldArrays({"samples": _batched(_array(inputs), raw["shape"])}), raw, known, None)


def _all_are(inputs: Any, kind: type) -> bool:
    return (
        isinstance(inputs, list | tuple) and bool(inputs) and all(isinstance(each, kind) for each in inputs)
    )


def _columns(inputs: Any) -> dict[str, Any] | None:
    """The columns of rows, by name, as arrow has them; None where ``inputs`` are no rows.

    A dict of single values is one row, one of lists a table.
    """
    if isinstance(inputs, Mapping) and not any(map(_is_column, inputs.values())):
        inputs = [inputs]
    if _all_are(inputs, Mapping):
        names = dict.fromkeys(name for row in inputs for name in row)
        pairs = [(name, [row.get(name) for row in inputs]) for name in names]
    elif isinstance(inputs, Mapping) or (hasattr(inputs, "items") and hasattr(inputs, "columns")):  # pandas
        pairs = list(inputs.items())
    elif isinstance(inputs, pyarrow.Table):
        pairs = list(zip(inputs.column_names, inputs.columns, strict=True))
    elif hasattr(inputs, "iter_columns"):  # polars
        pairs = [(column.name, column.to_arrow()) for column in inputs.iter_columns()]
    else:
        return None
    columns: dict[str, Any] = {}
    for name, values in pairs:
        if str(name) in columns:
            raise ConfigError(f"inputs have two columns {str(name)!r}", "give each column a name of its own")
        columns[str(name)] = _arrow(values)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ConfigError(
            f"inputs have columns of different lengths: {counts}", "give each row a value in each"
        )
    return columns


def _is_column(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)


def _arrow(values: Any) -> Any:
    """Values of one column; those of different types as texts, as a CSV file would have them."""
    if isinstance(values, pyarrow.Array | pyarrow.ChunkedArray):
        return values
    try:
        return pyarrow.array(values, from_pandas=True)
    except (pyarrow.ArrowException, TypeError, OverflowError):
        cells = (None if value is None or value != value else str(value) for value in values)
        return pyarrow.array(list(cells), pyarrow.string())


def _array(inputs: Any) -> Array:
    if isinstance(inputs, torch.Tensor):
        held = inputs.detach().cpu()
        # NumPy has no bfloat16, which float32 holds.
        numbers: Array = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
        return numbers
    if _all_are(inputs, torch.Tensor) or _all_are(inputs, numpy.ndarray):
        inputs = [_array(each) for each in inputs]
    try:
        array = numpy.asarray(inputs)
    except ValueError:  # rows of different lengths
        array = numpy.empty((), object)
    if array.dtype.kind not in "biuf" or not array.ndim:
        raise ConfigError(f"inputs are no samples: {type(inputs).__name__} of {_content(inputs)}", _HELP)
    return array


def _content(inputs: Any) -> str:
    if isinstance(inputs, Sequence) and inputs:
        return type(inputs[0]).__name__
    return str(getattr(inputs, "dtype", "something else"))


def _batched(array: Array, shape: Sequence[int]) -> Array:
    """(N, …): an array of one sample alone is a batch of one."""
    raw, stored = tuple(shape), tuple(array.shape)
    alone = [raw]
    if len(raw) == 3:
        alone += [(*raw[1:], raw[0]), *([raw[1:]] if raw[0] == 1 else [])]
    return array[None] if stored in alone else array


def _by_name(inputs: Any, raw: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays of several inputs, by the names that an ``.npz`` file would have for them."""
    names = list(raw["shape"])
    if are_positions(raw["shape"]):
        if not isinstance(inputs, list | tuple) or len(inputs) != len(names):
            raise ConfigError(
                f"inputs must be {len(names)} arrays: the run was trained on {shown(raw)}",
                "give a tuple of them",
            )
        given = dict(zip(names, inputs, strict=True))
        return {f"arr_{name}": _batched(_array(given[name]), raw["shape"][name]) for name in names}
    if not isinstance(inputs, Mapping):
        raise ConfigError(
            f"inputs must be arrays by their names: the run was trained on {shown(raw)}",
            "give a dict of them",
        )
    return {str(name): _batched(_array(value), raw["shape"].get(name, ())) for name, value in inputs.items()}
