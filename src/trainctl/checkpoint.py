"""Checkpoints: written whole or not at all, verified before they are read.

A checkpoint is a folder ``step-00000860`` with ``model.safetensors``, ``state.json`` and ``manifest.json``,
which lists the other files' sizes and SHA-256 and is written last. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from trainctl.errors import CheckpointError, NotFiniteError

_MANIFEST_VERSION = 1
_FILES = ("model.safetensors", "state.json")


def folder_name(step: int) -> str:
    """The name of the checkpoint at ``step``."""
    return f"step-{step:08d}"


def save(folder: Path, model: nn.Module, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of ``model`` at ``state["step"]`` into ``folder``; returns its path.

    The files are written under a temporary name and synced, then the folder is renamed and its parent
    synced: a kill at any moment leaves the old checkpoints and at most one folder with a leading dot.
    Raises OSError when the disk will not take it (the temporary folder is removed), NotFiniteError when a
    parameter is not finite.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NotFiniteError(
                f"{name} holds values that are not finite at step {state['step']}: not saved",
                "the checkpoints before are kept; guard=default stops at the first such loss",
            )
    target = folder / folder_name(int(state["step"]))
    if target.exists():
        return target
    temporary = folder / f".{target.name}.{os.getpid()}"
    try:
        # A killed process may have left one of this name: process numbers come again.
        shutil.rmtree(temporary, ignore_errors=True)
        # Not the parents: a run directory that has vanished must not come back half.
        folder.mkdir(exist_ok=True)
        temporary.mkdir()
        files = {
            "model.safetensors": save_tensors(_unshared(tensors)),
            "state.json": json.dumps(dict(state), indent=1).encode(),
        }
        for name, file_content in files.items():
            _write(temporary / name, file_content)
        _write(temporary / "manifest.json", _manifest({name: _entry(each) for name, each in files.items()}))
        _sync_folder(temporary)
        temporary.rename(target)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory as tensors of their own: safetensors stores no two names for one piece."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        result[name] = tensor if whole and memory not in seen else tensor.clone()
        seen.add(memory)
    return result


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The parameters and the state of a checkpoint, after its manifest has been verified.

    Raises CheckpointError naming the file when anything is missing or differs.
    """
    files = _verified(checkpoint)
    try:
        return load_tensors(files["model.safetensors"]), json.loads(files["state.json"])
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is no usable checkpoint: {error}") from error


def _verified(checkpoint: Path) -> dict[str, bytes]:
    """The files' contents, read once; every byte of every file is accounted for."""
    try:
        content = (checkpoint / "manifest.json").read_bytes()
        manifest = json.loads(content)
        entries = manifest["files"]
        # What is not word for word what save() writes was not written by it, or is damaged.
        if manifest["version"] != _MANIFEST_VERSION or sorted(entries) != sorted(_FILES):
            raise CheckpointError(f"{checkpoint / 'manifest.json'} is damaged, or of another version")
        if _manifest(entries) != content:
            raise CheckpointError(f"{checkpoint / 'manifest.json'} is damaged")
        contents = {}
        for name in _FILES:
            contents[name] = (checkpoint / name).read_bytes()
            if entries[name] != _entry(contents[name]):
                raise CheckpointError(f"{checkpoint / name} is damaged: it does not match its manifest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint} is no usable checkpoint: {error}") from error
    return contents


def _entry(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _manifest(entries: Mapping[str, Any]) -> bytes:
    return json.dumps({"version": _MANIFEST_VERSION, "files": dict(entries)}, indent=1).encode()


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in ``folder``, oldest first."""
    found = [path for path in folder.glob("step-*") if (path / "manifest.json").is_file()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


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
            f"{directory} has no checkpoint", "it was stopped before the first one was saved"
        )
    return found[-1]


def prune(folder: Path, keep: set[int], keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints and those at the steps ``keep``."""
    names = {folder_name(step) for step in keep}
    for path in list_checkpoints(folder)[:-keep_last]:
        if path.name not in names:
            shutil.rmtree(path)
