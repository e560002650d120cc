"""Checkpoints: written whole or not at all, verified before they are read.

A checkpoint is a folder ``step-00000860`` with ``model.safetensors`` (parameters and buffers),
``training.safetensors`` (the tensors of optimizer, scheduler, hooks and random states), ``state.json``
(everything else) and ``manifest.json``, which lists the other files' sizes and SHA-256 and is written last.
No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainctl.checkpoint.upgrade import upgraded
from trainctl.errors import CheckpointError, NotFiniteError, UnsafeInputError
from trainctl.runs import files

_MANIFEST_VERSION = 2
MODEL, TRAINING, STATE = "model.safetensors", "training.safetensors", "state.json"
_FILES = (MODEL, TRAINING, STATE)
_LONGEST_MANIFEST = 1 << 16
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds.

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


def check_finite(tensors: Mapping[str, Tensor], step: int) -> None:
    """Raise NotFiniteError where a parameter or a buffer is not finite: such a model is never saved."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NotFiniteError(
                f"{name} holds values that are not finite at step {step}: not saved",
                "the checkpoints before are kept; guard=default stops at the first such loss",
            )


def save(folder: Path, content: Content, name: str | None = None, *, finite: bool = True) -> Path:
    """Write ``content`` into ``folder`` as ``name``, by default that of its step; returns its path.

    The files are written under a temporary name and synced, then the folder is renamed and its parent
    synced: a kill at any moment leaves the old checkpoints and at most one folder with a leading dot. One
    that exists is left as it is. Raises OSError when the disk will not take it (the temporary folder is
    removed), NotFiniteError when a parameter is not ``finite``.
    """
    if finite:
        check_finite(content.model, content.step)
    target = folder / (name or folder_name(content.step))
    if target.exists():
        return target
    temporary = folder / f".{target.name}.{os.getpid()}"
    try:
        # A killed process may have left one of this name: process numbers come again.
        shutil.rmtree(temporary, ignore_errors=True)
        # Not the parents: a run directory that has vanished must not come back half.
        folder.mkdir(exist_ok=True)
        files.sync_folder(folder.parent)
        temporary.mkdir()
        written = {
            MODEL: save_tensors(_unshared(content.model)),
            TRAINING: save_tensors(_unshared(content.training)),
            STATE: json.dumps(dict(content.state), indent=1).encode(),
        }
        for file, data in written.items():
            files.write(temporary / file, data)
        files.write(
            temporary / "manifest.json", _manifest({file: _entry(data) for file, data in written.items()})
        )
        files.sync_folder(temporary)
        files.rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def checked(content: Content) -> Content:
    """``content`` as :func:`save` can write it without an operation of torch on the CPU.

    For a thread that writes while another one trains: an operation on a large tensor would give the writer a
    pool of OpenMP threads of its own. With more of those than cores, none of them waits awake any more, the
    trainer's neither, and each of its operations takes longer from then on. Raises NotFiniteError.
    """
    check_finite(content.model, content.step)

    def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        on_cpu = {name: tensor for name, tensor in tensors.items() if tensor.is_cpu}
        return {**tensors, **_unshared(on_cpu)}

    return replace(content, model=apart(content.model), training=apart(content.training))


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory as tensors of their own: safetensors stores no two names for one piece."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        result[name] = tensor if whole and memory not in seen else tensor.clone()
        seen.add(memory)
    return result


def read(checkpoint: Path) -> Content:
    """The content of a checkpoint, after its manifest has been verified.

    Raises CheckpointError naming the file when anything is missing or differs, UnsafeInputError for what no
    checkpoint of trainctl is: a link out of the run, a pickle, a header that promises more than the file has.
    """
    data = _verified(checkpoint)
    try:
        for name in (MODEL, TRAINING):
            _check_header(checkpoint / name, data[name])
        state = json.loads(data[STATE])
        if not isinstance(state, dict) or not _counts(state.get("step")):
            raise CheckpointError(f"{checkpoint / STATE} does not say which step it is of")
        return Content(load_tensors(data[MODEL]), load_tensors(data[TRAINING]), upgraded(state))
    except (SafetensorError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{checkpoint} is no usable checkpoint: {_reason(error)}") from error


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _reason(error: BaseException) -> str:
    return "the memory does not suffice to read it" if isinstance(error, MemoryError) else str(error)


def verify(checkpoint: Path) -> None:
    """Read every byte back and compare with the manifest. Raises as :func:`read`."""
    _verified(checkpoint)


def _verified(checkpoint: Path) -> dict[str, bytes]:
    """The files' contents, read once; every byte of every file is accounted for."""
    refuse_foreign(checkpoint)
    try:
        listing = checkpoint / "manifest.json"
        if listing.stat().st_size > _LONGEST_MANIFEST:
            raise CheckpointError(f"{listing} is damaged: it is longer than any manifest")
        content = listing.read_bytes()
        manifest = json.loads(content)
        entries = manifest["files"]
        # What is not word for word what save() writes was not written by it, or is damaged.
        if manifest["version"] != _MANIFEST_VERSION or sorted(entries) != sorted(_FILES):
            raise CheckpointError(f"{listing} is damaged, or of another version")
        if _manifest(entries) != content:
            raise CheckpointError(f"{listing} is damaged")
        contents = {}
        for name in _FILES:
            path = checkpoint / name
            # The size first: what is absurdly large is not read.
            if path.stat().st_size != entries[name]["size"]:
                raise CheckpointError(f"{path} is damaged: it has not the size in its manifest")
            contents[name] = path.read_bytes()
            if entries[name] != _entry(contents[name]):
                raise CheckpointError(f"{path} is damaged: it does not match its manifest")
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError
    ) as error:  # fmt: skip
        raise CheckpointError(f"{checkpoint} is no usable checkpoint: {_reason(error)}") from error
    return contents


def refuse_foreign(checkpoint: Path) -> None:
    """Raise UnsafeInputError for links that lead out of the run, pickles, and what is no plain file."""
    run = checkpoint.parent.parent.resolve()
    _refuse_outside(checkpoint, run)
    try:
        found = sorted(checkpoint.iterdir())
    except OSError as error:
        raise CheckpointError(f"{checkpoint} is no usable checkpoint: {error}") from error
    for path in found:
        _refuse_outside(path, run)
        # What a link in the run leads to is looked at: reading a pipe would wait for ever.
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            raise UnsafeInputError(f"{path} is no plain file", "a checkpoint holds plain files only")
        if path.suffix in _PICKLES or _looks_like_a_pickle(path):
            raise UnsafeInputError(
                f"{path} is a pickle, which can run code when it is read",
                "trainctl writes and reads safetensors and JSON only",
            )


def _refuse_outside(path: Path, run: Path) -> None:
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UnsafeInputError(f"{path} leads nowhere: {error}") from None
    if not target.is_relative_to(run):
        raise UnsafeInputError(f"{path} is a link to {target}, outside the run", "copy what it leads to")


def _looks_like_a_pickle(path: Path) -> bool:
    """The first bytes of pickle's protocols 2 to 5, or of the archives that torch.save writes."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError:
        return False
    return start[:4] == b"PK\x03\x04" or (
        start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and start[2:3] in b"}]c(\x8a\x95"
    )


def _check_header(path: Path, content: bytes) -> None:
    """Raise UnsafeInputError for a header that promises more than the file holds; nothing is allocated."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise UnsafeInputError(f"{path}: its header claims {length} bytes, the file has {len(content)}")
    header = json.loads(content[8 : 8 + length])
    room = len(content) - 8 - length
    if not isinstance(header, dict):
        raise UnsafeInputError(f"{path}: its header is no table of tensors")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            shape, (start, end) = entry["shape"], entry["data_offsets"]
            size = math.prod(shape) * _BYTES[entry["dtype"]]
            fits = 0 <= start <= end <= room and size == end - start and all(each >= 0 for each in shape)
        except (KeyError, TypeError, ValueError):
            raise UnsafeInputError(f"{path}: its header says nothing usable of {name}") from None
        if not fits:
            raise UnsafeInputError(
                f"{path}: {name} of shape {tuple(shape)} does not fit into the file",
                "it was not written by trainctl",
            )


def _entry(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _manifest(entries: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": _MANIFEST_VERSION, "files": dict(entries)}, indent=1).encode()


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in ``folder``, oldest first."""
    found = [path for path in folder.glob("step-*") if (path / "manifest.json").is_file()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def newest_valid(folder: Path) -> tuple[Path, Content, list[tuple[Path, str]]]:
    """The newest checkpoint that is whole, its content, and the newer ones that are not, with the reason.

    Raises CheckpointError (exit 4) when there is none; nothing is touched.
    """
    broken: list[tuple[Path, str]] = []
    # Not only those with a manifest: a checkpoint that has lost it is named, too.
    folders = sorted(folder.glob("step-*"), key=lambda path: (len(path.name), path.name), reverse=True)
    for path in folders:
        try:
            content = read(path)
            if path.name != folder_name(content.step):
                raise CheckpointError(f"{path} is the checkpoint of step {content.step}, renamed")
            return path, content, broken
        except CheckpointError as error:
            broken.append((path, str(error)))
    if broken:
        listed = "; ".join(reason for _, reason in broken)
        raise CheckpointError(
            f"{folder} has no usable checkpoint: {listed}", "nothing was deleted or changed"
        )
    raise CheckpointError(
        f"{folder} has no checkpoint", "wait for the first one where the run is still being trained"
    )


def best_of(directory: Path, record: Mapping[str, Any], which: str = "best") -> Path:
    """The ``best`` or ``last`` checkpoint of a run, by its ``run.json``; without a best one, the last.

    Raises CheckpointError when there is none.
    """
    folder, best = directory / "checkpoints", record.get("best")
    if which == "best" and best:
        return folder / folder_name(best["step"])
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(
            f"{directory} has no checkpoint", "wait for the first one where the run is still being trained"
        )
    return found[-1]


def clear(folder: Path) -> None:
    """Remove what a killed process left of checkpoints: half written, or half removed."""
    for path in folder.glob(".*step-*.*"):
        if re.fullmatch(r"\.(old-)?step-\d+\.\d+", path.name):
            shutil.rmtree(path, ignore_errors=True)


def prune(folder: Path, keep: set[int], keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints and those at the steps ``keep``."""
    names = {folder_name(step) for step in keep}
    for path in list_checkpoints(folder)[:-keep_last]:
        if path.name not in names:
            files.remove_folder(path)
