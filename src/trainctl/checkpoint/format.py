"""The files of a checkpoint: what is in them, and their verification when they are read.

A checkpoint is a folder ``step-00000860`` with ``model.safetensors`` (parameters and buffers),
``training.safetensors`` (the tensors of optimizer, scheduler, hooks and random states), ``state.json``
(everything else) and ``manifest.json``, which lists the other files' sizes and SHA-256 and is written last.
Where several processes have a part of each tensor, process N writes ``model-N.safetensors`` and
``training-N.safetensors`` beside those of process 0: a tensor that is in several files is cut along its first
dimension, in the order of the processes. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint import tensors as tensor_files
from trainctl.checkpoint.store import MANIFEST, LocalStore, Store, refuse_foreign
from trainctl.errors import CheckpointError, NotFiniteError, UnsafeInputError
from trainctl.registry.constraints import show
from trainctl.runs import strict_json

_FORMAT = 3
MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    MemoryError,
    RuntimeError,
)
_LARGEST_MANIFEST = 1 << 20  # bytes; a process adds 270
_PIECE = 1 << 24  # bytes
_READ_AGAIN = 1 << 34  # bytes: of a larger file that is not read, damage is not told from intent
Watch = Callable[[Iterable[memoryview]], Iterable[memoryview]]


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
        numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        if not numbers.is_floating_point() or numbers.numel() == 0:
            continue
        # Of NaN, both are NaN. No copy of the tensor is made.
        low, high = (float(each) for each in numbers.aminmax())
        masks = name in buffers and not tensor.is_complex() and low == -math.inf
        if not (math.isfinite(low) or masks) or not math.isfinite(high):
            raise NotFiniteError(
                f"{name} has NaN or infinite values at step {step}: not saved",
                "earlier checkpoints are kept; guard=default stops at the first such loss",
            )


def save_checkpoint(folder: Path, content: CheckpointData, name: str | None = None) -> Path:
    """Write ``content`` into ``folder`` as ``name``, by default that of its step; returns its path.

    One that exists is left as it is. Raises OSError when the disk will not take it.
    """
    name, store = name or folder_name(content.step), LocalStore(folder)
    if name not in store.list(committed=False):
        try:
            commit(store, name, content, put_tensors(store, name, content))
        except BaseException:
            store.discard(name)
            raise
    return folder / name


def put_tensors(store: Store, name: str, content: CheckpointData, rank: int = 0) -> dict[str, Any]:
    """Write the two files of tensors of a process; their entries in the manifest."""
    both = zip(_files_of(rank), (content.model, content.training), strict=True)
    return {file: _put(store, name, file, tensor_files.pieces(_unshared(each))) for file, each in both}


def commit(store: Store, name: str, content: CheckpointData, entries: Mapping[str, Any]) -> None:
    """Write the state, and last the manifest with the ``entries`` of all files of tensors."""
    state = [memoryview(json.dumps(dict(content.state), indent=1).encode())]
    store.commit(name, manifest_bytes({**entries, STATE: _put(store, name, STATE, state)}))


def _files_of(rank: int) -> tuple[str, str]:
    """The files of tensors that a process writes."""
    if rank == 0:
        return MODEL, TRAINING
    return f"model-{rank}.safetensors", f"training-{rank}.safetensors"


def _put(store: Store, name: str, file: str, pieces: Iterable[memoryview]) -> dict[str, Any]:
    """Stream a file into ``store``; its entry in the manifest."""
    digest, size = hashlib.sha256(), 0
    hasher: Executor | None = None

    def passing() -> Iterator[memoryview]:
        nonlocal hasher, size
        for piece in pieces:
            for start in range(0, len(piece), _PIECE):
                part = piece[start : start + _PIECE]
                size += len(part)
                if len(part) < _PIECE:
                    digest.update(part)
                    yield part
                    continue
                # Beside the writing, which takes about as long.
                hasher = hasher or beside.enter_context(ThreadPoolExecutor(1, "digest"))
                hashed = hasher.submit(digest.update, part)
                yield part
                hashed.result()

    with ExitStack() as beside:
        store.put(name, file, passing())
    return _entry(size, digest)


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


def read_checkpoint(path: Path, *, training: bool = True) -> CheckpointData:
    """The content of the checkpoint in the folder ``path``, verified against its manifest.

    Without ``training`` its tensors are verified, but not kept in memory.

    Raises CheckpointError naming the file when anything is missing or differs, UnsafeInputError for files
    that trainctl never writes: a link out of the run, a pickle, a header that claims more than the file has.
    """
    refuse_foreign(path)
    store, name = LocalStore(path.parent), path.name
    try:
        entries = _entries(store, name)
        model: dict[str, Tensor] = {}
        tensors: dict[str, Tensor] = {}
        for rank in range(_writers(entries)):
            of_model, of_training = _files_of(rank)
            _join(model, _read(store, name, of_model, entries[of_model]))
            _join(tensors, _read(store, name, of_training, entries[of_training], keep=training))
        data = store.get(name, STATE, entries[STATE]["size"])
        if manifest_entry(data) != entries[STATE]:
            raise CheckpointError(f"{path}/{STATE} is damaged: it does not match its manifest")
        state = strict_json.parse(data)
        if not isinstance(state, dict) or not is_count(state.get("step")):
            raise CheckpointError(f"{path}/{STATE} has no valid step")
        return CheckpointData(model, tensors, state)
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is no usable checkpoint: {_reason(error)}") from error


def verify_checkpoint(path: Path) -> None:
    """Read every byte back and compare with the manifest. Raises as :func:`read_checkpoint`."""
    refuse_foreign(path)
    store = LocalStore(path.parent)
    try:
        for file, entry in _entries(store, path.name).items():
            with store.open(path.name, file, entry["size"]) as opened:
                if _entry(entry["size"], hashlib.file_digest(opened, "sha256")) != entry:
                    raise CheckpointError(f"{path}/{file} is damaged: it does not match its manifest")
    except _UNREADABLE as error:
        raise CheckpointError(f"{path} is no usable checkpoint: {_reason(error)}") from error


def _writers(entries: Mapping[str, Any]) -> int:
    """The number of processes that have written a checkpoint with these files."""
    return len(entries) // 2


def _join(tensors: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add the tensors of the next process; one that is there already goes on with this part."""
    for name, part in more.items():
        tensors[name] = torch.cat((tensors[name], part)) if name in tensors else part


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _reason(error: BaseException) -> str:
    return "not enough memory to read it" if isinstance(error, MemoryError) else str(error)


def copy_set(
    source: Store, target: Store, name: str, known: Collection[str] | None = None, watch: Watch = iter
) -> bytes:
    """Copy the set ``name`` from one store to another, verified on its way; returns its manifest.

    Args:
        known: names that its files may have; None for those of a checkpoint.
        watch: is given the pieces of each file, and yields them.

    Raises CheckpointError where the source is damaged, OSError where either store fails: the target then has
    nothing of that name.
    """
    try:
        entries = _entries(source, name, known)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source}/{name} is damaged: {error}") from error
    try:
        for file, entry in entries.items():
            with source.open(name, file, entry["size"]) as opened:
                pieces = iter(lambda: opened.read(_PIECE), b"")
                if _put(target, name, file, watch(map(memoryview, pieces))) != entry:
                    raise CheckpointError(
                        f"{source}/{name}/{file} is damaged: it does not match its manifest"
                    )
        target.commit(name, manifest_bytes(entries))
    except BaseException:
        target.discard(name)
        raise
    return manifest_bytes(entries)


def put_files(store: Store, name: str, contents: Mapping[str, Iterable[memoryview]]) -> None:
    """Write a set of any files, its manifest last. Raises OSError."""
    store.commit(
        name, manifest_bytes({file: _put(store, name, file, pieces) for file, pieces in contents.items()})
    )


def _entries(store: Store, name: str, known: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file, by the manifest."""
    where = f"{store}/{name}"
    content = store.get(name, MANIFEST, _LARGEST_MANIFEST)
    manifest = strict_json.parse(content)
    if (found := manifest["version"]) != _FORMAT:
        raise CheckpointError(
            f"{where} has checkpoint format {show(found)}; this trainctl reads format {_FORMAT}",
            "use the version of trainctl that trained the run, or train it again",
        )
    entries: dict[str, dict[str, Any]] = manifest["files"]
    files = {STATE, *(file for rank in range(_writers(entries)) for file in _files_of(rank))}
    if known is not None:
        files = entries.keys() & known
    if entries.keys() != files:
        raise CheckpointError(f"{where}/{MANIFEST} is damaged")
    # A manifest that is not byte for byte what is written here was damaged, or written by something else.
    sizes = [entry["size"] for entry in entries.values()]
    if manifest_bytes(entries) != content or not all(is_count(size) for size in sizes):
        raise CheckpointError(f"{where}/{MANIFEST} is damaged")
    return entries


def _read(
    store: Store, name: str, file: str, entry: Mapping[str, Any], *, keep: bool = True
) -> dict[str, Tensor]:
    """The tensors of a file; every byte of it is accounted for."""
    digest, where = hashlib.sha256(), f"{store}/{name}/{file}"
    with store.open(name, file, entry["size"]) as opened:
        try:
            tensors = tensor_files.read(opened, entry["size"], digest, where, keep=keep)
        except (UnsafeInputError, ValueError):
            if entry["size"] <= _READ_AGAIN:
                opened.seek(0)
                digest = hashlib.file_digest(opened, "sha256")
                if _entry(entry["size"], digest) == entry:  # it was written like this
                    raise
    if _entry(entry["size"], digest) != entry:
        raise CheckpointError(f"{where} is damaged: it does not match its manifest")
    return tensors


def manifest_entry(content: bytes) -> dict[str, Any]:
    return _entry(len(content), hashlib.sha256(content))


def _entry(size: int, digest: Any) -> dict[str, Any]:
    return {"size": size, "sha256": digest.hexdigest()}


def manifest_bytes(entries: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": _FORMAT, "files": dict(entries)}, indent=1).encode()
