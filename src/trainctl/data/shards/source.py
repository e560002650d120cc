"""Where shards lie: files here, or on a bucket that fsspec reaches."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from trainctl.data.files import identity
from trainctl.errors import ConfigError, StorageError
from trainctl.runs.bucket import connected, explained, is_url

KINDS = (".tar", ".parquet")
_LOCAL = ("file:", "memory:")
_SPLIT = re.compile(r"(train|val|dev|test)(?:id|idation|ing)?(?![a-z])", re.IGNORECASE)
_TRIES, _WAIT = 6, 0.25
_PIECE = 1 << 23
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Shard:
    """One shard.

    Attributes:
        path: of the file, or its URL.
        size: in bytes.
        stamp: what tells it from every other version of it.
    """

    path: str
    size: int
    stamp: str

    @property
    def is_parquet(self) -> bool:
        return self.path.endswith(KINDS[1])


@dataclass
class Source:
    """The shards at ``place``: a file, a folder, a pattern with ``*``, or a URL of one of them.

    A read that fails is tried six times within eight seconds, then it raises StorageError. Raises ConfigError
    for a shard that is another one than was listed.
    """

    place: str
    _connected: Any = None
    _same: set[str] = field(default_factory=set)

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place, "_connected": None, "_same": set()}  # each process connects itself

    @property
    def remote(self) -> bool:
        """Whether shards are copied here to be read."""
        return is_url(self.place)

    @property
    def connects(self) -> bool:
        """Whether reading them opens a connection."""
        return self.remote and not self.place.startswith(_LOCAL)

    @property
    def protocol(self) -> str:
        return self.place.partition("://")[0] if self.remote else ""

    def split(self, shard: Shard) -> str:
        """The split that the shard of a folder is for, by its name or that of a folder it is in: train where
        that says nothing, and for all shards of a pattern."""
        place = self.place if self.remote else str(Path(self.place).expanduser().absolute())
        if shard.path.startswith(place):
            for word in reversed(shard.path.removeprefix(place).split("/")):
                if found := _SPLIT.match(word):
                    return {"dev": "val"}.get(found[1].lower(), found[1].lower())
        return "train"

    def shards(self) -> list[Shard]:
        """All shards, sorted by path; empty where there are none."""
        if self.remote:
            found = self._tried(self.place, self._list_remote)
        else:
            found = [
                Shard(str(path.absolute()), path.stat().st_size, _stamp(path)) for path in self._list_local()
            ]
        return sorted(found, key=lambda shard: shard.path)

    def copy(self, shard: Shard, file: BinaryIO) -> None:
        """Write the shard into ``file``."""

        def attempt() -> int:
            filesystem = self._filesystem()
            file.seek(0)
            with filesystem.open(shard.path, "rb", block_size=_PIECE, cache_type="readahead") as stored:
                while piece := stored.read(_PIECE):
                    file.write(piece)
            if file.tell() != shard.size:
                raise OSError(f"{file.tell()} bytes of {shard.size} arrived")
            return file.tell()

        self._refuse_changed(shard)
        self._tried(shard.path, attempt)

    def read(self, shard: Shard, start: int, size: int) -> bytes:
        """A part of the shard."""
        if shard.path not in self._same:
            self._refuse_changed(shard)
            self._same.add(shard.path)

        def attempt() -> bytes:
            content: bytes = self._filesystem().cat_file(shard.path, start=start, end=start + size)
            if len(content) != size:
                raise OSError(f"{len(content)} bytes of {size} arrived")
            return content

        return self._tried(shard.path, attempt)

    def open(self, shard: Shard) -> int:
        """A descriptor of a local shard. Raises OSError."""
        descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        if _stamp(Path(shard.path)) != shard.stamp:
            os.close(descriptor)
            raise _changed(shard)
        return descriptor

    def _refuse_changed(self, shard: Shard) -> None:
        def look() -> dict[str, Any]:
            found: dict[str, Any] = self._filesystem().info(shard.path)
            return found

        if _stamped(self._tried(shard.path, look)) != shard.stamp:
            raise _changed(shard)

    def _tried(self, what: str, read: Callable[[], _Read]) -> _Read:
        for number in range(_TRIES):
            try:
                with explained(self.place):
                    return read()
            except OSError as error:
                last = error
                if isinstance(error, FileNotFoundError | PermissionError) or number == _TRIES - 1:
                    break
                time.sleep(_WAIT * 2**number)
        reason = str(last).partition("\n")[0] or type(last).__name__
        raise StorageError(f"dataset=shards: {what} cannot be read: {reason}", "resume when it can") from last

    def _filesystem(self) -> Any:
        if self._connected is None:
            self._connected = connected(self.place)
        return self._connected[0]

    def _list_remote(self) -> list[Shard]:
        filesystem = self._filesystem()
        root = self._connected[1]
        if glob.has_magic(root):
            found = filesystem.glob(root, detail=True)
        else:
            found = {}
            with contextlib.suppress(FileNotFoundError):
                found = filesystem.find(root, detail=True)
        return [
            Shard(filesystem.unstrip_protocol(path), int(info["size"]), _stamped(info))
            for path, info in found.items()
            if info["type"] == "file" and path.endswith(KINDS)
        ]

    def _list_local(self) -> list[Path]:
        place = Path(self.place).expanduser()
        if glob.has_magic(str(place)) and not place.exists():
            found = [Path(name) for name in glob.glob(str(place), recursive=True)]  # noqa: PTH207
        else:
            found = list(place.rglob("*")) if place.is_dir() else [place]
        return [path for path in found if path.name.endswith(KINDS) and path.is_file()]


def _stamp(path: Path) -> str:
    return "-".join(map(str, identity(path)))


def _stamped(info: dict[str, Any]) -> str:
    # The first that the service has: a listing and a question for one file write times in different ways.
    return f"{info['size']}-{next((str(info[key]) for key in _STAMPS if info.get(key)), '')}"


def _changed(shard: Shard) -> ConfigError:
    return ConfigError(
        f"dataset=shards: {shard.path} is not the one that was listed at the start: it was changed",
        "start again: what was changed is indexed again",
    )
