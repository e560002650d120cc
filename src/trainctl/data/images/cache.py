"""Decoded images in one file, so that later runs decode nothing.

The file has the safetensors format and is written row by row: the images need not fit into memory together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainctl.errors import ConfigError

_THREADS = 16
_WINDOW = 1024


def stamp(folder: Path, files: Sequence[str], options: object) -> str:
    """The identity of a set of files: names, sizes, modification times, and how they are decoded."""
    digest = hashlib.sha256(repr(("images-1", options)).encode())
    for name in files:
        status = (folder / name).stat()
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def places(folder: Path, name: str) -> list[Path]:
    """Candidates for the cache's path: beside the folder, else in the user's cache folder.

    Not inside the folder: other programs, such as torchvision's ImageFolder, would take it for a class.
    """
    folder = folder.resolve()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    own = base / "trainctl" / "images" / f"{key}-{name}"
    return [folder.with_name(f".{folder.name}.trainctl") / name, own] if folder.name else [own]


@dataclass(frozen=True)
class Stored:
    """A cache on disk; its rows have the order of the source files."""

    path: Path
    stamp: str

    def images(self) -> Tensor:
        """All images, (N, C, H, W) uint8, memory-mapped."""
        return self._read("images")

    def good(self) -> Tensor:
        """The files that could be decoded, (N,) bool."""
        return self._read("good").bool()

    def valid(self) -> bool:
        """True if the file exists and was made from the files that ``stamp`` describes."""
        try:
            with safe_open(self.path, framework="pt") as stored:
                return (stored.metadata() or {}).get("sources") == self.stamp
        except (SafetensorError, OSError):
            return False  # absent, torn or foreign

    def _read(self, name: str) -> Tensor:
        with safe_open(self.path, framework="pt") as stored:
            if (stored.metadata() or {}).get("sources") != self.stamp:
                raise ConfigError(
                    f"{self.path} was replaced during the run: the images changed", "start again"
                )
            tensor: Tensor = stored.get_tensor(name)
        return tensor


class Row:
    """Loads one image of a cache by its row; each process maps the file itself."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._images: Tensor | None = None

    def __call__(self, row: int) -> Tensor:
        if self._images is None:
            self._images = self._stored.images()
        return self._images[row].clone()

    def __reduce__(self) -> tuple[type[Row], tuple[Stored]]:
        return Row, (self._stored,)


def write(
    stored: Stored, paths: Sequence[str], decode: Callable[[str], Tensor], shape: Sequence[int], *, skip: bool
) -> None:
    """Decode all files into the cache.

    Raises OSError if it cannot be written, ConfigError for a broken file unless ``skip``.
    """
    count, size = len(paths), shape[0] * shape[1] * shape[2]
    header = _header(stored.stamp, count, shape)
    stored.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = stored.path.with_name(f".{stored.path.name}.{os.getpid()}")
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):
            # A full disk is an error now, not after an hour of decoding.
            os.posix_fallocate(file, 0, len(header) + count * (size + 1))
        os.pwrite(file, header, 0)
        for row, image in decoded(paths, decode, skip=skip):
            if image is not None:
                _write_all(file, image.numpy().tobytes(), len(header) + row * size)
            _write_all(file, bytes([image is not None]), len(header) + count * size + row)
        os.fsync(file)
        temporary.replace(stored.path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def decoded(
    paths: Sequence[str], decode: Callable[[str], Tensor], *, skip: bool
) -> Iterator[tuple[int, Tensor | None]]:
    """Each image with its row, in order; None for a broken one.

    Threads are enough: Pillow decodes without holding Python's lock.
    """

    def attempt(path: str) -> Tensor | None:
        try:
            return decode(path)
        except ConfigError:
            if skip:
                return None
            raise

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(_THREADS, cores))
    try:
        for start in range(0, len(paths), _WINDOW):
            yield from enumerate(pool.map(attempt, paths[start : start + _WINDOW]), start)
    finally:
        pool.shutdown(cancel_futures=True)


def in_memory(
    paths: Sequence[str], decode: Callable[[str], Tensor], shape: Sequence[int], *, skip: bool
) -> tuple[Tensor, Tensor]:
    """All images, and which could be decoded, if no cache can be written."""
    images = torch.zeros((len(paths), *shape), dtype=torch.uint8)
    good = torch.zeros(len(paths), dtype=torch.bool)
    for row, image in decoded(paths, decode, skip=skip):
        if image is not None:
            images[row], good[row] = image, True
    return images, good


def _header(sources: str, count: int, shape: Sequence[int]) -> bytes:
    size = count * shape[0] * shape[1] * shape[2]
    tensors: dict[str, Any] = {
        "__metadata__": {"sources": sources},
        "images": {"dtype": "U8", "shape": [count, *shape], "data_offsets": [0, size]},
        "good": {"dtype": "U8", "shape": [count], "data_offsets": [size, size + count]},
    }
    text = json.dumps(tensors).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_all(file: int, content: bytes, offset: int) -> None:
    done = 0
    while done < len(content):  # a signal or 2 GiB cut a write short
        done += os.pwrite(file, content[done:], offset + done)
