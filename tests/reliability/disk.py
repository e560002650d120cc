"""The operating system's calls that change files, counted, recorded, and made to kill or to fail."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

Op = list[Any]
"""Name, path below the folder, and what a replay needs: flags, data, the second path."""

_CHANGING = (
    "open", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "truncate", "rename", "replace",
    "mkdir", "rmdir", "unlink", "remove", "symlink", "link",
)  # fmt: skip
_ADDING = ("open", "write", "pwrite", "mkdir", "symlink", "link")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

BEFORE, HALF, AFTER = "before", "half", "after"

Act = Callable[["Disk", int, str, Callable[[], Any], Callable[[], Any] | None], Any]
"""What to do in place of an operation: the disk, its number, its name, all of it, half of it."""


class Disk:
    """Stands in for the functions of ``os``, in this process, for paths below ``folder``.

    Args:
        folder: changes below it, and its own making, are operations; they are numbered from 0.
        act: is called in place of each; it may do the operation, or half of it, or not.
    """

    def __init__(self, folder: Path, act: Act | None = None) -> None:
        self.folder = os.path.abspath(folder)  # noqa: PTH100 - resolve() would follow links
        self.act = act
        self.ops: list[Op] = []
        self.names: list[str] = []
        self._paths: dict[int, str] = {}
        self._real: dict[str, Callable[..., Any]] = {}
        self.foreign: list[str] = []

    def install(self) -> None:
        """From here to the end of the process."""
        for name in (*_CHANGING, "close"):
            self._real[name] = getattr(os, name)
            setattr(os, name, self._standing_in_for(name))

    def watch_openers(self) -> None:
        """Note who opens a file below the folder for writing and is not ``trainctl.runs.files``."""
        sys.addaudithook(self._opened)

    def record(self, path: Path) -> None:
        """Write down what was done."""
        path.write_text(json.dumps({"ops": self.ops, "names": self.names, "foreign": self.foreign}))

    def mark(self, *what: Any) -> None:
        """Note an event among the operations; it has no number."""
        self.ops.append(["mark", len(self.names), *what])

    # ---------------------------------------------------------------- standing in

    def _standing_in_for(self, name: str) -> Callable[..., Any]:
        return lambda *words, **options: self._called(name, *words, **options)

    def _called(self, name: str, *words: Any, **options: Any) -> Any:
        real = self._real[name]
        if name == "close":
            if (path := self._paths.pop(words[0], None)) is not None and self._inside(path):
                self.ops.append(["close", self._below(path), words[0]])
            return real(*words)
        path = self._path(words[1] if name in ("symlink", "link") else words[0], options.get("dir_fd"))
        if path is None or not self._inside(path):
            return real(*words, **options)
        if name == "open" and not words[1] & _WRITING:
            descriptor = real(*words, **options)
            self._paths[descriptor] = path
            self.ops.append(["look", self._below(path), descriptor])
            return descriptor
        op: Op = [name, self._below(path)]
        half = None
        if name == "write":
            data = bytes(words[1])
            op += [words[0], data.decode("latin-1")]

            def half() -> int:
                return int(real(words[0], data[: len(data) // 2]))

        elif name in ("fsync", "fdatasync", "ftruncate", "pwrite"):
            op += [word.decode("latin-1") if isinstance(word, bytes) else word for word in words]
        elif name in ("rename", "replace"):
            op.append(self._below(os.path.abspath(words[1])))  # noqa: PTH100
        elif name == "symlink":
            op.append(os.fspath(words[0]))

        def whole() -> Any:
            result = real(*words, **options)
            if name == "open":
                self._paths[result] = path
                op.extend([words[1], result])
            self.ops.append(op)
            return result

        number = len(self.names)
        self.names.append(name)
        return whole() if self.act is None else self.act(self, number, name, whole, half)

    def _path(self, given: Any, folder: int | None) -> str | None:
        if isinstance(given, int):
            return self._paths.get(given)
        text = os.fsdecode(given)
        if folder is not None:
            above = self._paths.get(folder)
            return None if above is None else os.path.join(above, text)  # noqa: PTH118
        return os.path.abspath(text)  # noqa: PTH100

    def _inside(self, path: str) -> bool:
        return path == self.folder or path.startswith(self.folder + os.sep)

    def _below(self, path: str) -> str:
        return path[len(self.folder) + 1 :] if self._inside(path) else path

    def _opened(self, event: str, words: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(words[0], str | bytes):
            return
        path = os.path.abspath(os.fsdecode(words[0]))  # noqa: PTH100
        if not self._inside(path) or not words[2] & _WRITING:
            return
        frame: FrameType | None = sys._getframe(1)
        passing = ("disk.py", "pathlib.py", "_local.py", "__init__.py")
        while frame is not None and os.path.basename(frame.f_code.co_filename) in passing:  # noqa: PTH119
            frame = frame.f_back
        where = frame.f_code.co_filename if frame is not None else "?"
        # The log file of logging, and the kernel's lock, hold nothing that a run depends on.
        if not where.endswith("trainctl/runs/files.py") and not path.endswith(("/train.log", "/.lock")):
            self.foreign.append(f"{self._below(path)}, opened by {where}")


def killing(number: int, when: str) -> Act:
    """SIGKILL at operation ``number``: before it, after it, or half way through a write."""

    def act(disk: Disk, at: int, name: str, whole: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        if at != number:
            return whole()
        try:
            if when == HALF and half is not None:
                half()
            elif when == AFTER:
                whole()
        finally:
            _die()

    return act


def failing(number: int, code: int, *, forever: bool) -> Act:
    """An OSError at operation ``number``; ``forever``: at all that follow and need room, too.

    A write puts half of its data on the disk first, as a disk does that becomes full.
    """

    def act(disk: Disk, at: int, name: str, whole: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        if at == number and half is not None and forever:
            return half() or _fail(code)
        if at == number or (forever and at > number and name in _ADDING):
            _fail(code)
        return whole()

    return act


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit("still alive")


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))


def contents(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below ``folder``: kind, permissions, and bytes, or where a link leads."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        inside: Any = None
        if stat.S_ISLNK(mode):
            inside = str(path.readlink())
        elif stat.S_ISREG(mode):
            # A file with holes of a terabyte is told by its size.
            size = path.lstat().st_size
            inside = path.read_bytes() if size < 1 << 24 else size
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), stat.S_IMODE(mode), inside)
    return found
