"""The files of a checkpoint: what is in them, and their verification when they are read.

A checkpoint is a folder ``step-00000860`` with ``model.safetensors`` (parameters and buffers),
``training.safetensors`` (the tensors of optimizer, scheduler, hooks and random states), ``state.json``
(everything else) and ``manifest.json``, which lists the other files' sizes and SHA-256 and is written last.
No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainctl.checkpoint.store import MANIFEST, LocalStore, Store, refuse_foreign
from trainctl.checkpoint.upgrade import upgraded
from trainctl.errors import CheckpointError, NotFiniteError, UnsafeInputError

_MANIFEST_VERSION = 2
MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
FILES = (MODEL, TRAINING, STATE)
_LARGEST_MANIFEST = 1 << 16
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class CheckpointData:
    """The content of a checkpoint.

    Attributes:
        model: parameters and buffers by name.
        training: the other tensors, by the names that ``state`` refers to.
        state: everything else, plain values; ``step`` names the checkpoint.
    """

    model: Mapping[str, Tensor]
    training: Mapping[str, Tensor]
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def folder_name(step: int) -> str:
    """The name of the checkpoint at ``step``."""
    return f"step-{step:08d}"


def check_finite(tensors: Mapping[str, Tensor], step: int, buffers: Collection[str] = ()) -> None:
    """Raise NotFiniteError where a parameter or a buffer is NaN or infinite: such a model is never saved.

    ``buffers``, by name, may hold -inf, as the mask of causal attention does.
    """
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() or tensor.is_complex()) or bool(torch.isfinite(tensor).all()):
            continue
        masks = name in buffers and tensor.is_floating_point()
        if not masks or bool((tensor.isnan() | tensor.isposinf()).any()):
            raise NotFiniteError(
                f"{name} has NaN or infinite values at step {step}: not saved",
                "earlier checkpoints are kept; guard=default stops at the first such loss",
            )


def save_checkpoint(
    folder: Path, content: CheckpointData, name: str | None = None, *, finite: bool = True
) -> Path:
    """Write ``content`` into ``folder`` as ``name``, by default that of its step; returns its path.

    One that exists is left as it is. Raises OSError when the disk will not take it, NotFiniteError when a
    parameter is not ``finite``.
    """
    name = name or folder_name(content.step)
    write(LocalStore(folder), content, name, finite=finite)
    return folder / name


def write(store: Store, content: CheckpointData, name: str, *, finite: bool = True) -> None:
    """Write ``content`` into ``store`` as ``name``; otherwise as :func:`save_checkpoint`."""
    if finite:
        check_finite(content.model, content.step)
    if name in store.list(committed=False):
        return
    try:
        written = {
            MODEL: save_tensors(_unshared(content.model)),
            TRAINING: save_tensors(_unshared(content.training)),
            STATE: json.dumps(dict(content.state), indent=1).encode(),
        }
        for file, data in written.items():
            store.put(name, file, data)
        store.commit(name, manifest_bytes({file: manifest_entry(data) for file, data in written.items()}))
    except BaseException:
        store.discard(name)
        raise


def ready_to_save(content: CheckpointData, buffers: Collection[str] = ()) -> CheckpointData:
    """``content`` prepared so that :func:`save_checkpoint` needs no operation of torch on the CPU.

    For a thread that writes while another one trains: an operation on a large tensor would start a second
    pool of OpenMP threads for the writer. With more threads than cores they stop spinning while they wait,
    the trainer's too, and every later operation takes longer. Raises as :func:`check_finite`.
    """
    check_finite(content.model, content.step, buffers)

    def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        on_cpu = {name: tensor for name, tensor in tensors.items() if tensor.is_cpu}
        return {**tensors, **_unshared(on_cpu)}

    return replace(content, model=apart(content.model), training=apart(content.training))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without shared memory, which safetensors refuses: those that share it are copied."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        result[name] = tensor if whole and memory not in seen else tensor.clone()
        seen.add(memory)
    return result


def read_checkpoint(path: Path) -> CheckpointData:
    """The content of the checkpoint in the folder ``path``, verified against its manifest.

    Raises CheckpointError naming the file when anything is missing or differs, UnsafeInputError for files
    that trainctl never writes: a link out of the run, a pickle, a header that claims more than the file has.
    """
    refuse_foreign(path)
    return read(LocalStore(path.parent), path.name)


def verify_checkpoint(path: Path) -> None:
    """Read every byte back and compare with the manifest. Raises as :func:`read_checkpoint`."""
    refuse_foreign(path)
    _verified(LocalStore(path.parent), path.name)


def read(store: Store, name: str) -> CheckpointData:
    """The content of the checkpoint ``name`` in ``store``; otherwise as :func:`read_checkpoint`."""
    data, where = _verified(store, name), f"{store}/{name}"
    try:
        for file in (MODEL, TRAINING):
            _check_header(f"{where}/{file}", data[file])
        state = json.loads(data[STATE])
        if not isinstance(state, dict) or not is_count(state.get("step")):
            raise CheckpointError(f"{where}/{STATE} has no valid step")
        return CheckpointData(load_tensors(data[MODEL]), load_tensors(data[TRAINING]), upgraded(state))
    except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{where} is no usable checkpoint: {_reason(error)}") from error


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _reason(error: BaseException) -> str:
    return "not enough memory to read it" if isinstance(error, MemoryError) else str(error)


def _verified(store: Store, name: str) -> dict[str, bytes]:
    """The files' contents, read once; every byte of every file is accounted for."""
    where = f"{store}/{name}"
    try:
        content = store.get(name, MANIFEST, _LARGEST_MANIFEST)
        manifest = json.loads(content)
        entries = manifest["files"]
        if manifest["version"] != _MANIFEST_VERSION or sorted(entries) != sorted(FILES):
            raise CheckpointError(f"{where}/{MANIFEST} is damaged, or of another version")
        # A manifest that is not byte for byte what is written here was damaged, or written by something else.
        if manifest_bytes(entries) != content:
            raise CheckpointError(f"{where}/{MANIFEST} is damaged")
        contents = {file: store.get(name, file, entries[file]["size"]) for file in FILES}
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError
    ) as error:  # fmt: skip
        raise CheckpointError(f"{where} is no usable checkpoint: {_reason(error)}") from error
    for file, data in contents.items():
        if entries[file] != manifest_entry(data):
            raise CheckpointError(f"{where}/{file} is damaged: it does not match its manifest")
    return contents


def _check_header(path: str, content: bytes) -> None:
    """Raise UnsafeInputError for a header that claims more than the file has, before memory is allocated."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise UnsafeInputError(f"{path}: its header claims {length} bytes, the file has {len(content)}")
    header = json.loads(content[8 : 8 + length])
    room = len(content) - 8 - length
    if not isinstance(header, dict):
        raise UnsafeInputError(f"{path}: its header is not a table of tensors")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape, (start, end) = entry["shape"], entry["data_offsets"]
            size = math.prod(shape) * _BYTES[entry["dtype"]]
            fits = 0 <= start <= end <= room and size == end - start and all(each >= 0 for each in shape)
        except (KeyError, TypeError, ValueError):
            raise UnsafeInputError(f"{path}: its header has no valid entry for {name}") from None
        if not fits:
            raise UnsafeInputError(
                f"{path}: {name} of shape {tuple(shape)} does not fit into the file",
                "it was not written by trainctl",
            )


def manifest_entry(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def manifest_bytes(entries: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": _MANIFEST_VERSION, "files": dict(entries)}, indent=1).encode()
