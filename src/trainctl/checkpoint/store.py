"""Where checkpoints are stored: the contract of a store, and the store on a local disk.

A store holds named sets of files. The files of a name are put one by one, and its manifest is written last:
that is the commit, before which the name does not exist. A store in a bucket can offer the same methods.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Protocol

from trainctl.errors import CheckpointError, UnsafeInputError
from trainctl.runs import files

MANIFEST = "manifest.json"
LINKS = ".mirrored"
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib")


class Store(Protocol):
    """Named sets of files, each there as a whole or not at all. ``str(store)`` says where it is."""

    def put(self, name: str, file: str, pieces: Iterable[memoryview]) -> None:
        """Write a file of ``name``, which is not committed yet, piece by piece. Raises OSError."""

    def commit(self, name: str, manifest: bytes) -> None:
        """Write the manifest of ``name`` and make it visible, durably. Raises OSError."""

    def discard(self, name: str) -> None:
        """Remove what was put under ``name`` and not committed."""

    def get(self, name: str, file: str, largest: int) -> bytes:
        """Read a file of ``name``. Raises OSError, CheckpointError for more than ``largest`` bytes."""

    def open(self, name: str, file: str, size: int) -> BufferedReader:
        """Open a file of ``name`` to read. Raises OSError, CheckpointError unless it has ``size`` bytes."""

    def list(self, *, committed: bool = True) -> list[str]:
        """The names, sorted; without ``committed`` also those whose manifest is missing."""

    def delete(self, name: str) -> None:
        """Delete ``name``. Raises OSError."""


class LocalStore:
    """A folder with one subfolder for each name.

    The files go, synced, into a temporary folder, which is renamed on commit: a kill at any moment leaves the
    old names and at most one folder with a leading dot.

    Args:
        begun: names that another process has begun, and will commit, with the number of that process.
    """

    def __init__(self, folder: Path, begun: Mapping[str, int] | None = None) -> None:
        self.folder = folder
        self._open: dict[str, int] = dict(begun or {})

    def __str__(self) -> str:
        return str(self.folder)

    def put(self, name: str, file: str, pieces: Iterable[memoryview]) -> None:
        if name not in self._open:
            self.begin(name)
        files.write_pieces(self._temporary(name) / file, pieces)

    def commit(self, name: str, manifest: bytes) -> None:
        temporary = self._temporary(name)
        files.write(temporary / MANIFEST, manifest)
        files.sync_folder(temporary)
        files.rename(temporary, self.folder / name)
        self._open.pop(name, None)

    def discard(self, name: str) -> None:
        shutil.rmtree(self._temporary(name), ignore_errors=True)
        self._open.pop(name, None)

    def get(self, name: str, file: str, largest: int) -> bytes:
        path = self.folder / name / file
        # The size is checked first: an oversized file is not read.
        if path.stat().st_size > largest:
            raise CheckpointError(f"{path} is damaged: it is larger than {largest} bytes")
        return path.read_bytes()

    def open(self, name: str, file: str, size: int) -> BufferedReader:
        path = self.folder / name / file
        if path.stat().st_size != size:
            raise CheckpointError(f"{path} is damaged: it does not match its manifest")
        return path.open("rb")

    def list(self, *, committed: bool = True) -> list[str]:
        found = self.folder.glob("[!.]*")
        return sorted(path.name for path in found if not committed or (path / MANIFEST).is_file())

    def delete(self, name: str) -> None:
        files.remove_folder(self.folder / name)

    def remove_leftovers(self) -> None:
        """Remove the temporary folders of a killed process: half written, half removed, or to be mirrored."""
        shutil.rmtree(self.folder / LINKS, ignore_errors=True)
        for path in self.folder.glob(".*step-*.*"):
            if re.fullmatch(r"\.(old-)?step-\d+\.\d+", path.name):
                shutil.rmtree(path, ignore_errors=True)

    def _temporary(self, name: str) -> Path:
        return self.folder / f".{name}.{self._open.get(name, os.getpid())}"

    def begin(self, name: str) -> None:
        """Make the folder that the files of ``name`` go into. Raises OSError."""
        # A killed process may have left one of this name: process ids are reused.
        self.discard(name)
        # Not the parents: a run directory that was deleted must not come back in part.
        self.folder.mkdir(exist_ok=True)
        files.sync_folder(self.folder.parent)
        self._temporary(name).mkdir()
        self._open[name] = os.getpid()


def refuse_foreign(checkpoint: Path) -> None:
    """Raise UnsafeInputError for links that lead out of the run, pickles, and anything but regular files."""
    run = checkpoint.parent.parent.resolve()
    _refuse_outside(checkpoint, run)
    try:
        found = sorted(checkpoint.iterdir())
    except OSError as error:
        raise CheckpointError(f"{checkpoint} is no usable checkpoint: {error}") from error
    for path in found:
        _refuse_outside(path, run)
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
        except FileNotFoundError:  # a dangling link; or training removes the checkpoint meanwhile
            continue
        # The target of a link inside the run counts: reading a pipe would block forever.
        if not regular:
            raise UnsafeInputError(
                f"{path} is not a regular file", "a checkpoint contains regular files only"
            )
        if path.suffix in _PICKLES or _looks_like_a_pickle(path):
            raise UnsafeInputError(
                f"{path} is a pickle, which can run code when it is read",
                "trainctl writes and reads safetensors and JSON only",
            )


def _refuse_outside(path: Path, run: Path) -> None:
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise UnsafeInputError(f"{path} is a circular link: {error}") from None
    if not target.is_relative_to(run):
        raise UnsafeInputError(
            f"{path} is a link to {target}, outside the run", "replace the link by a copy of its target"
        )


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
