"""Rows of a Parquet, Arrow or JSON Lines file, read like the table that the run was trained on."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import pyarrow

from trainctl.data.files import opened
from trainctl.data.tables.arrow import arrow_column
from trainctl.data.tables.columns import Column, as_kind
from trainctl.data.tables.header import unique_names
from trainctl.data.tables.numbers import TIME
from trainctl.errors import ConfigError, StorageError
from trainctl.inference.readers.base import Batch
from trainctl.inference.readers.tables import TableFile

_PARQUET, _ARROW = b"PAR1", (b"ARROW1", b"\xff\xff\xff\xff")
_JSON = (".json", ".jsonl", ".ndjson")
_BUFFER = 1 << 20


def has_types(path: Path) -> bool:
    """Is it a file whose columns have types, not only texts?"""
    return any(suffix.lower() in _JSON for suffix in path.suffixes) or _begins(path).startswith(
        (_PARQUET, *_ARROW)
    )


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(6)
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error


class ArrowTable(TableFile):
    """As :class:`TableFile`; a block of rows is in memory at a time. Numbers are taken as texts where the run
    has categories, and texts as numbers where it has numbers."""

    place = ""

    def _open(self, dataset: Mapping[str, Any]) -> None:
        first = next(self._blocks(1), None)
        if first is None:
            raise ConfigError(f"{self.path} has no rows", "name another file with --input FILE")
        names, self.has_header = self._names_of(first), True
        self.width = len(names)
        wanted = [column.name for column in self.columns]
        self.places = self._by_name(names, wanted) if self.reading["named"] else self._by_number(wanted)
        self.names = [names[place] for place in self.places]

    def _names_of(self, block: Any) -> list[str]:
        names = [unicodedata.normalize("NFC", name) for name in block.schema.names]
        return unique_names(names, len(names))

    def _blocks(self, size: int) -> Iterator[Any]:
        """The rows as arrow's record batches, at most ``size`` at a time."""
        from pyarrow import ipc, json, parquet

        try:
            begins = _begins(self.path)
            if begins.startswith(_PARQUET):
                with parquet.ParquetFile(self.path, buffer_size=_BUFFER) as stored:
                    self.total = stored.metadata.num_rows
                    yield from stored.iter_batches(size) if self.total else _no_rows(stored.schema_arrow)
            elif begins.startswith(_ARROW):
                opening = ipc.open_file if begins.startswith(_ARROW[0]) else ipc.open_stream
                with pyarrow.memory_map(str(self.path)) as mapped, opening(mapped) as stored:
                    many = getattr(stored, "num_record_batches", None)
                    found = stored if many is None else map(stored.get_batch, range(many))
                    for block in found if many != 0 else _no_rows(stored.schema):
                        yield from (block.slice(start, size) for start in range(0, max(1, len(block)), size))
            else:
                with opened(self.path) as (content, _):
                    while lines := b"".join(islice(content, size)):
                        if lines.strip():
                            yield from json.read_json(io.BytesIO(lines)).combine_chunks().to_batches()
        except (pyarrow.ArrowException, ValueError) as error:
            reason = str(error).partition("\n")[0]
            is_json = self.path.suffix.lower() in _JSON
            remedy = "write an object a line" if is_json else "copy it again; a text table is CSV"
            raise ConfigError(f"{self.path} cannot be read: {reason}", remedy) from error
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be read: {error.strerror or error}", "check the disk"
            ) from error

    def batches(self, size: int) -> Iterator[Batch]:
        number = 0
        for block in self._blocks(size):
            found = dict(zip(self._names_of(block), block.columns, strict=True))
            columns = [
                self._like(column, place + 1, found.get(name, pyarrow.nulls(len(block))))
                for column, place, name in zip(self.columns, self.places, self.names, strict=True)
            ]
            yield self._read(number, columns, range(number + 1, number + len(block) + 1), {})
            number += len(block)
            self.done = min(number, self.total)
        self.done = self.total

    def _like(self, like: Column, number: int, values: Any) -> Column:
        """The values as a column of the kind that the run was trained on."""
        types = pyarrow.types
        if types.is_floating(values.type):
            values = values.cast(pyarrow.float64()).to_numpy(zero_copy_only=False).astype(numpy.float64)
        else:
            values = pyarrow.chunked_array([values])
        found = arrow_column(like.name, number, values, self.marks)
        times = TIME in (like.notation.unit, found.notation.unit)
        if found.unusable or (times and found.texts is None and found.notation.unit != like.notation.unit):
            trained = "times" if like.notation.unit == TIME else f"a {like.kind}"
            held = found.unusable or "another type"
            message = f"{self.path}, {found.place}: {held}, the run was trained on {trained}"
            raise ConfigError(message, "use the type of training")
        if found.texts is None and like.kind == "number":
            return replace(like, number=number, values=found.values, bad=found.bad)
        texts = found.texts if found.texts is not None else found.as_text().texts
        return as_kind(replace(like, number=number, texts=texts))


class HeldRows(ArrowTable):
    """Rows in memory: an arrow table, whose columns are found by their names."""

    def __init__(
        self, table: Any, raw: Mapping[str, Any], reading: Mapping[str, Any], dataset: Mapping[str, Any]
    ) -> None:
        self.table = table.combine_chunks()
        super().__init__(Path("the table"), raw, reading, dataset)

    def _blocks(self, size: int) -> Iterator[Any]:
        self.total = len(self.table)
        yield from self.table.to_batches(size) or _no_rows(self.table.schema)


def _no_rows(schema: Any) -> list[Any]:
    """A block without rows, for the names of the columns."""
    return [pyarrow.RecordBatch.from_arrays([pyarrow.nulls(0, each.type) for each in schema], schema=schema)]
