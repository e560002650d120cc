"""Checkpoints with one bit of every byte flipped, and cut at every length."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.reliability.children import Trial, spawn
from tests.reliability.runs import Patch, nothing
from trainctl.checkpoint.format import read_checkpoint
from trainctl.errors import CheckpointError

_BATCH = 2048


def every_byte(source: Path, patch: Patch = nothing) -> list[Trial]:
    """Each byte of each file, with one of its bits flipped."""
    return [
        Trial(
            f"{path.name} flipped from byte {start}",
            partial(_flipped, source, path.name, start, patch),
            count,
        )
        for path in sorted(source.iterdir())
        for start, count in _batches(path.stat().st_size)
    ]


def every_length(source: Path) -> list[Trial]:
    """Each file, cut at every length, with a byte more, and gone."""
    trials = []
    for path in sorted(source.iterdir()):
        for start, count in _batches(path.stat().st_size):
            cut = partial(_cut, source, path.name, start, count)
            trials.append(Trial(f"{path.name} cut to {start} bytes and more", cut, count))
        trials.append(Trial(f"{path.name} longer, gone", partial(_longer_or_gone, source, path.name), 2))
    return trials


def _batches(size: int) -> list[tuple[int, int]]:
    return [(start, min(_BATCH, size - start)) for start in range(0, size, _BATCH)]


def _copied(source: Path, folder: Path) -> Path:
    target = folder / "run" / "checkpoints" / source.name
    shutil.copytree(source, target)
    return target


def accepted(path: Path) -> bool:
    """Whether a checkpoint is read, whatever is wrong with it. Raises what is not CheckpointError."""
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _flipped(source: Path, name: str, start: int, patch: Patch, folder: Path) -> str | None:
    def work() -> None:
        patch()
        path = _copied(source, folder)
        file = os.open(path / name, os.O_RDWR)
        content = (path / name).read_bytes()
        for place in range(start, min(start + _BATCH, len(content))):
            os.pwrite(file, bytes([content[place] ^ 1 << place % 8]), place)
            if accepted(path):
                print(f"byte {place} of {name} flipped, and nobody noticed")
            os.pwrite(file, content[place : place + 1], place)
        if not accepted(path):
            print("the whole one is refused")

    return _said(work, folder)


def _cut(source: Path, name: str, start: int, count: int, folder: Path) -> str | None:
    def work() -> None:
        path = _copied(source, folder)
        for length in reversed(range(start, start + count)):
            os.truncate(path / name, length)
            if accepted(path):
                print(f"{name} cut to {length} bytes, and nobody noticed")

    return _said(work, folder)


def _longer_or_gone(source: Path, name: str, folder: Path) -> str | None:
    def work() -> None:
        path = _copied(source, folder)
        with (path / name).open("ab") as file:
            file.write(b"\0")
        if accepted(path):
            print(f"{name} with a byte more, and nobody noticed")
        (path / name).unlink()
        if accepted(path):
            print(f"{name} gone, and nobody noticed")

    return _said(work, folder)


def _said(work: Callable[[], None], folder: Path) -> str | None:
    ended = spawn(work, folder, timeout=120)
    return str(ended) if ended.code or ended.text else None
