"""Samples in a Parquet file: columns by name. To be read at random it becomes an Arrow file of its inputs."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy
import torch
from torch import Tensor

from trainctl.data.shards.part import TARGETS, Part, Wanted, coded
from trainctl.errors import ConfigError, did_you_mean


def unpacked_size(file: BinaryIO, where: str) -> int:
    """About the bytes that the Arrow file will have."""
    metadata = _opened(file, where).metadata
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))


def convert(file: BinaryIO, target: BinaryIO, where: str, wanted: Wanted) -> None:
    """Write the inputs of an open Parquet file as an Arrow file, a batch for each of its row groups."""
    import pyarrow

    stored = _opened(file, where)
    names, _, kind = _columns(stored.schema_arrow, where, wanted)
    first, writer = 0, None
    for group in range(stored.num_row_groups):
        rows = stored.read_row_group(group, names).combine_chunks()
        if kind == "image" and pyarrow.types.is_struct(rows[names[0]].type):
            rows = pyarrow.table({names[0]: rows[names[0]].combine_chunks().field("bytes")})
        for name in names:
            if rows[name].null_count:
                row = first + rows[name].is_null().to_pylist().index(True)
                raise ConfigError(f"dataset=shards: {where}: row {row} has no {name}", "leave out such rows")
        writer = writer or pyarrow.ipc.new_file(target, rows.schema)
        writer.write_table(rows)
        first += len(rows)
    if writer is not None:
        writer.close()


def indexed(file: BinaryIO, where: str, wanted: Wanted) -> Part:
    """The samples of an open Parquet file. Raises ConfigError for one that is damaged or lacks a column."""
    stored = _opened(file, where)
    names, target, kind = _columns(stored.schema_arrow, where, wanted)
    column = stored.read([target])[target]
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ConfigError(f"dataset=shards: {where}: row {row} has no {target}", "leave out such rows")
    values = column.to_pylist()
    if values and not isinstance(values[0], int | float | str):
        raise ConfigError(f"dataset=shards: {where}: {target} is {column.type}, neither a number nor a text")
    if not values:
        raise ConfigError(f"dataset=shards: {where} has no rows", "remove it")
    numbers, texts = coded(where, values, wanted.task)
    rows = numpy.arange(len(values), dtype=numpy.int64)
    source = f"{', '.join(names)} → {target}"
    return Part(rows, numpy.zeros_like(rows), numbers, texts, kind, source, unpacked_size(file, where))


class Rows:
    """The rows of an Arrow file, mapped: memory holds what was read last."""

    def __init__(self, descriptor: int) -> None:
        import pyarrow

        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        reader = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends = numpy.cumsum([len(batch) for batch in self._batches])

    def __getitem__(self, row: int) -> bytes | Tensor:
        """A row: the bytes of an image, or its numbers as a tensor. Raises ValueError for NaN."""
        number = int(numpy.searchsorted(self._ends, row, side="right"))
        batch = self._batches[number]
        place = row - int(self._ends[number]) + len(batch)
        values = [column[place].as_py() for column in batch.columns]
        if isinstance(values[0], bytes):
            return values[0]
        lists = isinstance(values[0], list)
        numbers = torch.as_tensor(numpy.asarray(values[0] if lists else values, dtype=numpy.float32))
        if bool(numbers.isnan().any()):
            raise ValueError("a number is not there")
        return numbers


def _opened(file: BinaryIO, where: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"dataset=shards: {where} is damaged: {reason}", "copy or write it again, or remove it"
        ) from error


def _columns(schema: Any, where: str, wanted: Wanted) -> tuple[list[str], str, str]:
    """The columns that are inputs, the one that is the target, and the inputs' kind."""
    kinds = {each.name: _kind(each.type) for each in schema}
    targets = [wanted.target] if wanted.target else [name for name in TARGETS if name in kinds]
    if not targets or targets[0] not in kinds:
        hint = did_you_mean(wanted.target or "", list(kinds), "dataset.target=")
        raise ConfigError(
            f"dataset=shards: {where} has no column {wanted.target or 'with the usual name of a target'}",
            f"{hint}name one: dataset.target=NAME; there are: {', '.join(kinds)}",
        )
    if absent := [name for name in wanted.inputs if not kinds.get(name)]:
        what = f"is {schema.field(absent[0]).type}" if absent[0] in kinds else "is not there"
        raise ConfigError(
            f"dataset.inputs: {where}: column {absent[0]} {what}",
            f"there are: {', '.join(name for name in kinds if kinds[name])}",
        )
    usable = {name: kind for name, kind in kinds.items() if kind and name != targets[0]}
    chosen: Sequence[str] = wanted.inputs or [name for name in usable if usable[name] == "image"]
    chosen = chosen or list(usable)
    found = {usable.get(name) for name in chosen}
    if len(found) != 1 or (len(chosen) > 1 and found != {"number"}):
        raise ConfigError(
            f"dataset=shards: {where}: inputs must be one column of images, one of lists, or numbers: there"
            f" are {', '.join(f'{name} ({kind})' for name, kind in usable.items()) or 'none'}",
            "dataset.inputs=[NAME]; several kinds of inputs: dataset=hf",
        )
    return list(chosen), targets[0], "image" if found == {"image"} else "array"


def _kind(kind: Any) -> str:
    """What a column of this type is: image, list, number, or empty for none of them."""
    from pyarrow import types

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "image"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list" if _kind(kind.value_type) in ("number", "list") else ""
    return "number" if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) else ""
