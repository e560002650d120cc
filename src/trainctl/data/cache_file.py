"""Files in which datasets keep what they have read: safetensors, written piece by piece.

The whole need not fit into memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainctl.paths import cache_folder

TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32,
    "I64": torch.int64, "U64": torch.uint64, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {kind: name for name, kind in TYPES.items()}
_ALIGN = 64

Described = Mapping[str, tuple[Sequence[int], torch.dtype]]
"""Shape and type of each tensor of a file, in its order."""


def cache_paths(source: Path, kind: str, name: str) -> list[Path]:
    """Paths for the cache of ``source``: beside it, else in the user's cache folder.

    Not inside a folder: other programs, such as torchvision's ImageFolder, would take it for a class.
    """
    source = source.resolve()
    key = hashlib.sha256(str(source).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    beside = [source.with_name(f".{source.name}.trainctl") / name] if source.name else []
    return [*beside, cache_folder() / kind / key / name]


def header(tensors: Described, metadata: Mapping[str, str] | None = None) -> bytes:
    """The first bytes of a safetensors file. Raises KeyError for a type that the format lacks."""
    described: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (shape, dtype) in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        described[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def write(
    path: Path, tensors: Described, metadata: Mapping[str, str], content: Iterable[bytes | memoryview]
) -> None:
    """Write a file whole, or not at all. Raises OSError, and what ``content`` raises."""
    first, size = header(tensors, metadata), sum(math.prod(s) * kind.itemsize for s, kind in tensors.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                # A full disk is an error now, not after an hour of reading.
                os.posix_fallocate(file.fileno(), 0, len(first) + size)
            file.write(first)
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
