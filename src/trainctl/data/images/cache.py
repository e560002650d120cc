"""Decoded images in one file, so that later runs decode nothing.

The file has the safetensors format and is written row by row: the images need not fit into memory together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainctl.data import cache_file
from trainctl.data.files import identity
from trainctl.data.images.decoding import in_threads
from trainctl.errors import ConfigError

Decode = Callable[[str], Tensor]
"""Makes a tensor of the file at a path; raises ConfigError for one that is broken."""


def stamp(folder: Path, files: Sequence[str], options: object) -> str:
    """The identity of a set of files, and how they are decoded."""
    digest = hashlib.sha256(repr(("images-2", options)).encode())
    for name in files:
        digest.update(f"{name}\0{identity(folder / name)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True)
class Stored:
    """A cache on disk, in the order of the source files; called with a row, it loads that image."""

    path: Path
    stamp: str

    def __call__(self, row: int) -> Tensor:
        return self.images[row]

    @cached_property
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

    def __reduce__(self) -> tuple[type[Stored], tuple[Path, str]]:
        return Stored, (self.path, self.stamp)  # each process maps the file itself


def write(stored: Stored, paths: Sequence[str], decode: Decode, shape: Sequence[int], *, skip: bool) -> None:
    """Decode all files into the cache.

    Raises OSError if it cannot be written, ConfigError for a broken file unless ``skip``.
    """
    rows, size = len(paths), math.prod(shape)
    tensors = {"images": ((rows, *shape), torch.uint8), "good": ((rows,), torch.uint8)}

    def content() -> Iterator[bytes]:
        good = bytearray()
        for image in decoded(paths, decode, skip=skip):
            yield bytes(size) if image is None else image.numpy().tobytes()
            good.append(image is not None)
        yield bytes(good)

    cache_file.write(stored.path, tensors, {"sources": stored.stamp}, content())


def decoded(paths: Sequence[str], decode: Decode, *, skip: bool) -> Iterator[Tensor | None]:
    """Each image, in order; None for a broken one. Raises ConfigError for the first one unless ``skip``."""

    def attempt(path: str) -> Tensor | None:
        try:
            return decode(path)
        except ConfigError:
            if skip:
                return None
            raise

    return in_threads(attempt, paths)


def in_memory(
    paths: Sequence[str], decode: Decode, shape: Sequence[int], *, skip: bool
) -> tuple[Tensor, Tensor]:
    """All images, and which could be decoded, if no cache can be written."""
    images = torch.zeros((len(paths), *shape), dtype=torch.uint8)
    good = torch.zeros(len(paths), dtype=torch.bool)
    for row, image in enumerate(decoded(paths, decode, skip=skip)):
        if image is not None:
            images[row], good[row] = image, True
    return images, good
