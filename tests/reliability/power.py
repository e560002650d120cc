"""The power goes: what was not synced is not on the disk, whatever the operating system had said."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.reliability.children import Trial
from tests.reliability.disk import Op
from tests.reliability.runs import OUTPUTS, Course, Patch, carry_on, half_made, nothing

Tree = dict[str, Any]
"""Names, and under each a folder's tree, a file's bytes, or the text where a link leads."""


@dataclass
class _File:
    data: bytes = b""
    synced: bytes = b""


@dataclass
class _Folder:
    entries: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)


# What a file system may make of the same past: a name lasts when its folder was synced after it came; or
# names last at once, and the data behind them does not; or a file's length does, and its data is zeros.
_AFTER = ("names synced or gone", "names kept, data gone", "names and lengths kept, data zero")


def _left(node: Any, after: str) -> Any:
    """What is left of a file or folder when the power has gone."""
    if isinstance(node, _Folder):
        entries = node.synced if after == _AFTER[0] else node.entries
        return {name: _left(entry, after) for name, entry in entries.items()}
    if isinstance(node, _File):
        if after == _AFTER[2]:
            return node.synced[: len(node.data)].ljust(len(node.data), b"\0")
        return node.synced
    return node


def _replayed(ops: list[Op]) -> Iterator[_Folder]:
    """The disk after each operation: what programs see, and what was synced."""
    root = _Folder()
    opened: dict[int, Any] = {}
    places: dict[int, int] = {}
    appending: set[int] = set()
    yield root
    for name, path, *rest in ops:
        if name in ("mark", "close"):
            continue
        above, last = _find(root, os.path.dirname(path)), os.path.basename(path)  # noqa: PTH119, PTH120
        if name in ("look", "open"):
            descriptor = rest[-1]
            if name == "open" and last not in above.entries:
                above.entries[last] = _File()
            node = opened[descriptor] = above.entries[last] if path else root
            places[descriptor] = 0
            appending.discard(descriptor)
            if name == "open" and rest[0] & os.O_APPEND:
                appending.add(descriptor)
            if name == "open" and rest[0] & os.O_TRUNC:
                node.data = b""
        elif name in ("write", "pwrite"):
            node, data = opened[rest[0]], rest[1].encode("latin-1")
            at = rest[2] if name == "pwrite" else places[rest[0]]
            at = len(node.data) if rest[0] in appending else at
            node.data = node.data[:at].ljust(at, b"\0") + data + node.data[at + len(data) :]
            places[rest[0]] = at + len(data)
        elif name == "ftruncate":
            opened[rest[0]].data = opened[rest[0]].data[: rest[1]].ljust(rest[1], b"\0")
        elif name in ("fsync", "fdatasync"):
            node = opened[rest[0]]
            node.synced = dict(node.entries) if isinstance(node, _Folder) else node.data
        elif name in ("rename", "replace"):
            target = _find(root, os.path.dirname(rest[0]))  # noqa: PTH120
            target.entries[os.path.basename(rest[0])] = above.entries.pop(last)  # noqa: PTH119
        elif name == "mkdir":
            above.entries[last] = _Folder()
        elif name == "symlink":
            above.entries[last] = rest[0]
        elif name in ("unlink", "remove", "rmdir"):
            del above.entries[last]
        else:
            raise NotImplementedError(name)
        yield root


def _find(root: _Folder, path: str) -> _Folder:
    node = root
    for part in filter(None, path.split("/")):
        node = node.entries[part]
    return node


def states(course: Course) -> list[tuple[str, Tree, int | None]]:
    """Every different state that the disk may be in, what it comes of, and the step that must be there.

    States that differ only in what has a leading dot count as one: nothing reads that.
    """
    found: dict[str, tuple[str, Tree, int | None]] = {}
    saved, number = None, 0
    marks = {index: op for index, op in enumerate(course.ops) if op[0] == "mark"}
    disks = _replayed(course.ops)
    next_disk = next(disks)
    for index in range(-1, len(course.ops)):
        if index in marks:
            saved = marks[index][2]
        elif index >= 0 and course.ops[index][0] != "close":
            next_disk = next(disks)
            number += course.ops[index][0] != "look"
        for after in _AFTER:
            tree = _left(next_disk, after)
            key = json.dumps(_visible(tree), sort_keys=True)
            name = found[key][0] if key in found else f"power gone after {number} operations, {after}"
            found[key] = (name, tree, saved)
    return list(found.values())


def _visible(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _visible(entry) for name, entry in tree.items() if not name.startswith(".")}
    return tree.decode("latin-1") if isinstance(tree, bytes) else tree


def after_every_operation(course: Course, patch: Patch = nothing) -> list[Trial]:
    """Power lost after each operation of the run; each different state that is left is carried on."""
    return [Trial(name, partial(_lost, course, tree, saved, patch)) for name, tree, saved in states(course)]


def _lost(course: Course, tree: Tree, saved: int | None, patch: Patch, folder: Path) -> str | None:
    _make(tree, folder / OUTPUTS)
    # An old checkpoint whose removal the disk has not seen is back.
    return half_made(folder, course) or carry_on(course, folder, saved, patch, tidy=False)


def _make(tree: Any, path: Path) -> None:
    if isinstance(tree, dict):
        path.mkdir()
        for name, entry in tree.items():
            _make(entry, path / name)
    elif isinstance(tree, bytes):
        path.write_bytes(tree)
    else:
        path.symlink_to(tree)
