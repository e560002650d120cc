"""One sample of a set of shards, in whatever process it is needed."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from trainctl.data.images.decoding import Decoder
from trainctl.data.preprocessing import describe_samples
from trainctl.data.shards import columns, tar
from trainctl.data.shards.cache import Cache
from trainctl.data.shards.index import places
from trainctl.data.shards.part import Part, Wanted
from trainctl.data.shards.source import Shard, Source
from trainctl.errors import ConfigError, StorageError, TrainctlError

_OPEN = 256
"""Shards that a process has open."""
_AHEAD = 4
"""Threads that copy shards before they are needed."""


@dataclass(frozen=True)
class Files:
    """What is read of shards: local tar files as they are, all else from the cache.

    Parquet is there as an Arrow file of the inputs.
    """

    source: Source
    cache: Cache
    wanted: Wanted

    def is_cached(self, shard: Shard) -> bool:
        return self.source.remote or shard.is_parquet

    def open(self, shard: Shard) -> int:
        """A descriptor. Raises StorageError where a shard cannot be read, ConfigError for a changed one."""
        if not self.is_cached(shard):
            return self.source.open(shard)
        name = self._name(shard)
        if (descriptor := self.cache.open(name)) is not None:
            return descriptor
        if not shard.is_parquet:
            return self.cache.fetch(name, shard.size, lambda file: self.source.copy(shard, file))
        with self._parquet(shard) as stored:
            size = columns.unpacked_size(stored, shard.path)
            return self.cache.fetch(
                name, size, lambda file: columns.convert(stored, file, shard.path, self.wanted)
            )

    def is_here(self, shard: Shard) -> bool:
        """Whether a shard that is read from the cache is in it."""
        return (self.cache.folder / self._name(shard)).exists()

    def indexed(self, shard: Shard) -> Part:
        """What is known of the samples of a shard, which is read for it. Raises as :meth:`open`."""
        if shard.is_parquet:
            with self._parquet(shard) as file:
                return columns.indexed(file, shard.path, self.wanted)
        descriptor = self.open(shard)
        try:
            return tar.indexed(descriptor, shard.path, self.wanted)
        finally:
            os.close(descriptor)

    def _name(self, shard: Shard) -> str:
        made_of = (shard, self.wanted.inputs, self.wanted.target) if shard.is_parquet else shard
        return hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]

    def _parquet(self, shard: Shard) -> Any:
        """An open Parquet file; one on a bucket is copied into memory."""
        if not self.source.remote:
            return os.fdopen(self.source.open(shard), "rb")
        file = io.BytesIO()
        self.source.copy(shard, file)
        return file


@dataclass
class Reader:
    """One raw sample by its number: (channels, height, width) uint8, or an array.

    Attributes:
        index: a file of the index for each shard.
        ends: where the samples of each shard end.
        whole: whether a shard on a bucket is copied here once more than one of its samples was read; else its
            samples are read one by one: the cache would not hold it until the next one is needed.
        first: the number of the split's first shard, whose runs :meth:`ahead` counts from 0.

    Raises ConfigError for a sample that is broken, StorageError where its shard cannot be read.
    """

    files: Files
    shards: Sequence[Shard]
    index: Sequence[Path]
    ends: Sequence[int]
    decoder: Decoder | None
    whole: bool
    first: int = 0
    _open: OrderedDict[int, tuple[int, columns.Rows | None]] = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    _touched: set[int] = field(default_factory=set, init=False, repr=False)
    _queue: list[int] = field(default_factory=list, init=False, repr=False)
    _threads: int = field(default=0, init=False, repr=False)
    _lock: Any = field(default_factory=threading.Lock, init=False, repr=False)

    def __reduce__(self) -> tuple[type[Reader], tuple[Any, ...]]:
        # Each process opens and connects by itself.
        given = self.files, self.shards, self.index, self.ends, self.decoder, self.whole, self.first
        return Reader, given

    def __call__(self, item: int) -> Tensor:
        number = bisect.bisect_right(self.ends, item)
        offsets, sizes = places(self.index[number])
        at = item - (self.ends[number - 1] if number else 0)
        place, size = int(offsets[at]), int(sizes[at])
        try:
            content = self._content(number, place, size)
            if isinstance(content, Tensor):
                return content
            if self.decoder is not None:
                return self.decoder.read(io.BytesIO(content))
            return torch.from_numpy(numpy.load(io.BytesIO(content), allow_pickle=False))
        except TrainctlError:
            raise
        except Exception as error:  # decoders raise errors of many kinds
            if getattr(error, "errno", None) is not None:
                path = self.shards[number].path
                raise StorageError(f"dataset=shards: {path} cannot be read: {error}") from error
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ConfigError(
                f"dataset=shards: {self._name(number, place)} is broken: {reason}",
                "write the shard again without it, or whole",
            ) from error

    @cached_property
    def raw(self) -> dict[str, Any]:
        """Shape and type of a raw sample."""
        return describe_samples(self(0)[None])

    def ahead(self, runs: Sequence[int]) -> None:
        """Begin to copy the shards of these runs, in this order, in place of those asked for before."""
        if not self.whole or not self.files.is_cached(self.shards[0]):
            return
        with self._lock:
            self._queue = [self.first + run for run in runs]
            for _ in range(_AHEAD - self._threads):
                self._threads += 1
                threading.Thread(target=self._fetch, daemon=True).start()

    def _fetch(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                shard = self.shards[self._queue.pop(0)]
            # What cannot be copied is named when a sample of it is needed.
            with contextlib.suppress(TrainctlError, OSError):
                os.close(self.files.open(shard))

    def _content(self, number: int, place: int, size: int) -> bytes | Tensor:
        """The bytes of a member of a tar, or a row of a table."""
        shard = self.shards[number]
        is_copied = self.files.source.remote and not shard.is_parquet and number not in self._open
        if is_copied and not self.files.is_here(shard):
            first = number not in self._touched
            self._touched.add(number)
            if first or not self.whole:
                return self.files.source.read(shard, place, size)
        descriptor, rows = self._opened(number)
        if rows is not None:
            return rows[place]
        content = os.pread(descriptor, size, place)
        if len(content) != size:
            raise EOFError("it ends before its index does")
        return content

    def _opened(self, number: int) -> tuple[int, columns.Rows | None]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        # What was removed from the cache takes no space once nobody has it open.
        left = [each for each, (held, _) in self._open.items() if not os.fstat(held).st_nlink]
        for each in left or list(self._open)[: len(self._open) >= _OPEN]:
            os.close(self._open.pop(each)[0])
        descriptor = self.files.open(self.shards[number])
        self._open[number] = descriptor, columns.Rows(descriptor) if self.shards[number].is_parquet else None
        return self._open[number]

    def __del__(self) -> None:
        for descriptor, _ in self._open.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _name(self, number: int, place: int) -> str:
        """A sample in messages."""
        shard = self.shards[number]
        if shard.is_parquet:
            return f"{shard.path}: row {place}"
        held = self._open.get(number)
        member = tar.name_at(held[0], place) if held is not None else ""
        return f"{shard.path}: {member or f'the member at byte {place}'}"
