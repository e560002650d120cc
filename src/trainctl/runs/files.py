"""Every change to a run directory: whole or not at all, and on the disk before the next one counts on it.

Nothing else in trainctl writes there but logs, and a profile at its end. A file is written under a temporary
name, synced and renamed, and the folder is synced, because a rename that the disk has not seen is lost with
the power (Pillai et al., All File Systems Are Not Created Equal, OSDI 2014).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_AHEAD = 1 << 26  # bytes


def read(path: Path, largest: int = 2**28, start: int = 0) -> bytes:
    """The content of a file, from byte ``start`` on. Raises OSError, also for a link, a pipe, and more than
    ``largest`` bytes."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if found.st_size > largest:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        file.seek(start)
        return file.read()


def write(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Create ``path`` with ``content`` and sync it. Raises OSError, also where a link has the name."""
    write_pieces(path, [content], synced=synced)


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], *, synced: bool = True) -> None:
    """The same with content that comes piece by piece."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o666)
    try:
        with contextlib.ExitStack() as stack:
            disk: Executor | None = None
            syncing: Future[None] | None = None
            waiting = 0
            for piece in pieces:
                _write_all(descriptor, piece)
                waiting += len(piece)
                if synced and waiting >= _AHEAD and (syncing is None or syncing.done()):
                    # Only here: the import takes longer than most files.
                    from concurrent.futures import ThreadPoolExecutor

                    # The disk begins while the next pieces are made.
                    disk = disk or stack.enter_context(ThreadPoolExecutor(1, "disk"))
                    if syncing is not None:
                        syncing.result()
                    syncing, waiting = disk.submit(os.fsync, descriptor), 0
            if syncing is not None:
                syncing.result()
        if synced:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(path: Path, content: bytes) -> None:
    """The same for a name that is free. Raises FileExistsError where it is not, OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        _write_all(descriptor, content)
        os.fsync(descriptor)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Give ``path`` the new ``content``: a reader sees the old file or the new one. Raises OSError.

    What is not ``synced`` may be lost with the power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary, content, synced=synced)
        temporary.replace(path)
        if synced:
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def rename(source: Path, target: Path) -> None:
    """Rename within one folder, and sync the folder. Raises OSError."""
    source.rename(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, and sync their names. One that is there is left as it is."""
    absent = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in absent:
        sync_folder(each.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder that may be in use as long as it has its name: renamed first, so never seen half."""
    hidden = folder.with_name(f".old-{folder.name}.{os.getpid()}")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


class Log:
    """A file that only grows, a whole line at a time.

    Args:
        size: what counts of a file that is there already, in bytes; the rest is cut off. None keeps all.

    Raises OSError, also where a link has the name: what it leads to is somebody else's.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o666)
        self.closed = False
        try:
            sync_folder(path.parent)
            self.size = os.fstat(self._descriptor).st_size
            # Of a file that has become shorter, cutting would make one with a hole.
            if size is not None and size < self.size:
                os.ftruncate(self._descriptor, size)
                self.size = size
        except OSError:
            self.close()
            raise

    def write(self, content: bytes) -> None:
        """Append. Raises OSError; what the disk took of the content is taken back then."""
        try:
            _write_all(self._descriptor, content)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(content)

    def sync(self) -> None:
        """Bring what was written to the disk. Raises OSError."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close; safe to call twice."""
        if not self.closed:
            self.closed = True
            os.close(self._descriptor)
