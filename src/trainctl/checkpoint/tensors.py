"""The safetensors format, written and read tensor by tensor, so that no second copy of the tensors is made.

A file is the length of its header in 8 bytes, the header in JSON, and the tensors one after another
(https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from typing import Any, Protocol

import torch
from torch import Tensor

from trainctl.data.cache_file import TYPES
from trainctl.data.cache_file import header as file_header
from trainctl.errors import UnsafeInputError
from trainctl.runs import strict_json


class _Digest(Protocol):
    def update(self, data: Any, /) -> None: ...


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes of a file with ``tensors``: the header, then each tensor's own memory.

    They are contiguous and share no memory with each other; one on another device is copied when its turn
    comes. Raises KeyError for a type that the format lacks.
    """
    # Wide types first: every tensor begins at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    yield memoryview(file_header({name: (tensors[name].shape, tensors[name].dtype) for name in names}))
    for name in names:
        yield _memory(tensors[name].cpu())


def read(
    file: BufferedIOBase, size: int, digest: _Digest, where: str, *, keep: bool = True
) -> dict[str, Tensor]:
    """The tensors in ``file`` of ``size`` bytes, each read into its own memory; ``digest`` gets every byte.

    Without ``keep`` one at a time is in memory, and none is returned. Raises UnsafeInputError for a header
    that claims more than the file has, before memory is allocated, ValueError for a file that ends early.
    """
    start = _exactly(file, 8, digest)
    length = int.from_bytes(start, "little")
    if length > size - 8:
        raise UnsafeInputError(f"{where}: its header claims {length} bytes, the file has {size}")
    entries = _entries(strict_json.parse(_exactly(file, length, digest)), size - 8 - length, where)
    tensors = {}
    for name, dtype, shape in entries:
        tensor = torch.empty(shape, dtype=dtype)
        memory = _memory(tensor)
        if file.readinto(memory) != len(memory):
            raise ValueError(f"{where} ends within {name}")
        digest.update(memory)
        if keep:
            tensors[name] = tensor
    return tensors


def _memory(tensor: Tensor) -> memoryview:
    """The tensor's memory as bytes."""
    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _exactly(file: BufferedIOBase, length: int, digest: _Digest) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise ValueError("it ends within its header")
    digest.update(data)
    return data


def _entries(header: Any, room: int, where: str) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """Name, type and shape in the order of the file, each checked: together they fill ``room``."""
    if not isinstance(header, dict):
        raise UnsafeInputError(f"{where}: its header is not a table of tensors")
    found = []
    for name, entry in header.items():
        if name == "__metadata__":
            if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
                raise UnsafeInputError(f"{where}: the metadata in its header is not text")
            continue
        try:
            dtype, shape = TYPES[entry["dtype"]], tuple(entry["shape"])
            start, end = entry["data_offsets"]
            whole = all(type(each) is int and each >= 0 for each in (*shape, start, end))
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise UnsafeInputError(f"{where}: its header has no valid entry for {name}")
        if end > room or end - start != math.prod(shape) * dtype.itemsize:
            raise UnsafeInputError(
                f"{where}: {name} of shape {shape} does not fit into the file",
                "it was not written by trainctl",
            )
        found.append((start, end, name, dtype, shape))
    found.sort(key=lambda each: each[:2])
    reached = 0
    for start, end, name, *_ in found:
        if start != reached:
            raise UnsafeInputError(f"{where}: {name} does not begin where the tensor before it ends")
        reached = end
    if reached != room:
        raise UnsafeInputError(f"{where}: {room - reached} bytes at its end belong to no tensor")
    return [(name, dtype, shape) for _, _, name, dtype, shape in found]
