"""Run directories between machines that share no folder: a file at a time, in pieces."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainctl.errors import UnsafeInputError
from trainctl.runs import files

PIECE = 1 << 23
"""Bytes of a file that are sent at a time."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a file, in their order; ``name`` is its path in the run directory, with ``/``."""

    name: str
    content: bytes


def pieces(directory: Path) -> Iterator[Piece]:
    """All files below ``directory``. Links are left out."""
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_file():
                continue
            sent = path.relative_to(directory).as_posix()
            with path.open("rb") as file:
                yield Piece(sent, file.read(PIECE))
                while content := file.read(PIECE):
                    yield Piece(sent, content)


class Incoming:
    """A run directory that arrives piece by piece beside ``directory``, and takes its place when whole."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._staging = directory.with_name(f".incoming-{directory.name}")
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir()

    def add(self, piece: Piece) -> None:
        """Append to a file. Raises UnsafeInputError for a name that leads out of the directory."""
        name = PurePosixPath(piece.name)
        if name.is_absolute() or ".." in name.parts or not name.parts:
            raise UnsafeInputError(
                f"a node sent a file with the name {piece.name!r}", "no sweep has such names"
            )
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(piece.content)

    def finish(self) -> None:
        """Sync what arrived and give it the directory's name; what had the name before is removed."""
        for folder, _, names in os.walk(self._staging, topdown=False):
            for name in names:
                with Path(folder, name).open("rb") as file:
                    os.fsync(file.fileno())
            files.sync_folder(Path(folder))
        if self._directory.exists():
            files.remove_folder(self._directory)
        files.rename(self._staging, self._directory)

    def discard(self) -> None:
        """Remove what arrived."""
        shutil.rmtree(self._staging, ignore_errors=True)
