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
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from trainctl.errors import CheckpointError

_MANIFEST_VERSION = 1


def folder_name(step: int) -> str:
    """The name of the checkpoint at ``step``."""
    return f"step-{step:08d}"


def save(folder: Path, model: nn.Module, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of ``model`` at ``state["step"]`` into ``folder``; returns its path.

    The files are written under a temporary name and synced, then the folder is renamed and its parent
    synced: a kill at any moment leaves the old checkpoints and at most one folder with a leading dot.
    Raises OSError when the disk will not take it (the temporary folder is removed), CheckpointError when a
    parameter is not finite.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name} holds values that are not finite at step {state['step']}: not saved"
            )
    target = folder / folder_name(int(state["step"]))
    if target.exists():
        return target
    temporary = folder / f".{target.name}.{os.getpid()}"
    try:
        temporary.mkdir(parents=True)
        files = {
            "model.safetensors": save_tensors(_unshared(tensors)),
            "state.json": json.dumps(dict(state), indent=1).encode(),
        }
        entries = {}
        for name, content in files.items():
            _write(temporary / name, content)
            entries[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = {"version": _MANIFEST_VERSION, "files": entries}
        _write(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        _sync_folder(temporary)
        temporary.rename(target)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights as tensors of their own: safetensors stores no two names for one piece of memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
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
    state = json.loads(files["state.json"])
    return load_tensors(files["model.safetensors"]), state


def _verified(checkpoint: Path) -> dict[str, bytes]:
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_bytes())
        entries = manifest["files"]
        contents = {}
        for name in ("model.safetensors", "state.json"):
            content = (checkpoint / name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            if len(content) != entries[name]["size"] or digest != entries[name]["sha256"]:
                raise CheckpointError(f"{checkpoint / name} is damaged: it does not match its manifest")
            contents[name] = content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint} is no usable checkpoint: {error}") from error
    return contents


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints in ``folder``, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / "manifest.json").is_file())


def prune(folder: Path, keep: set[int], keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints and those at the steps ``keep``."""
    names = {folder_name(step) for step in keep}
    for path in list_checkpoints(folder)[:-keep_last]:
        if path.name not in names:
            shutil.rmtree(path)
