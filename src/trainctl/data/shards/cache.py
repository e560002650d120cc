"""Files of a bounded size on the disk, which any number of processes make, read and remove."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainctl.errors import ConfigError, StorageError

_PART = ".part"
_NAME = re.compile(r"[0-9a-f]{32}(\.part)?")


@dataclass(frozen=True)
class Cache:
    """Files in ``folder`` that together have at most ``limit`` bytes; the least recently opened go first.

    Their names are 32 hexadecimal digits; what has another name is left alone.
    A file is made once, under a lock that ends with its process, and appears whole. One that is removed while
    it is read stays readable: what is handed out are descriptors.
    """

    folder: Path
    limit: int

    def open(self, name: str) -> int | None:
        """A descriptor of the file; None where it is not there."""
        try:
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            os.utime(descriptor)
        return descriptor

    def fetch(self, name: str, size: int, write: Callable[[BinaryIO], object]) -> int:
        """A descriptor of the file; where it is not there, ``write`` writes it, about ``size`` bytes.

        Raises StorageError where that cannot be done here, ConfigError for more than the limit.
        """
        if size > self.limit:
            raise ConfigError(
                f"dataset.cache_gb={self.limit / 1e9:g}: a shard has {size / 1e9:.3g} GB",
                "raise it, or write smaller shards",
            )
        part = self.folder / (name + _PART)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while (descriptor := self.open(name)) is None:
                with part.open("a+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    if not _is(file, part):
                        continue  # another process has finished it, or given it up
                    if (descriptor := self.open(name)) is None:
                        return self._made(name, file, size, write)
                    part.unlink()
            return descriptor
        except OSError as error:
            raise StorageError(
                f"dataset.cache_dir={self.folder}: {error.strerror or error}",
                "free some disk space, lower dataset.cache_gb, or name another folder: dataset.cache_dir=DIR",
            ) from error

    def _made(self, name: str, file: BinaryIO, size: int, write: Callable[[BinaryIO], object]) -> int:
        part = Path(file.name)
        try:
            file.truncate(size)  # what the others count
            self._make_room()
            with part.open("r+b") as stored:
                write(stored)
                stored.truncate()
            self._make_room()
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            part.replace(self.folder / name)
            return descriptor
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _make_room(self) -> None:
        """Remove what was opened longest ago, and what a killed process left half made."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = [(entry, status) for entry, status in self._files() if not self._is_left(entry)]
            total = sum(status.st_size for _, status in found)
            for path, status in sorted(found, key=lambda each: each[1].st_mtime_ns):
                if total > self.limit and path.suffix != _PART:
                    path.unlink(missing_ok=True)
                    total -= status.st_size

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                if _NAME.fullmatch(entry.name):  # whatever else is there is somebody's
                    yield Path(entry.path), entry.stat()

    def _is_left(self, path: Path) -> bool:
        if path.suffix != _PART:
            return False
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, path):
                path.unlink()
            return True
        return not path.exists()


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether ``path`` still is the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
