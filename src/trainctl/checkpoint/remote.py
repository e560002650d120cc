"""A store on a bucket: whatever fsspec reaches by a URL."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from io import BufferedReader

from trainctl.checkpoint.store import MANIFEST
from trainctl.errors import CheckpointError
from trainctl.runs.bucket import connected, explained


class RemoteStore:
    """Named sets of files below a URL; see :class:`trainctl.checkpoint.store.Store`.

    Every error of the service is an OSError. Raises ConfigError for a URL that fsspec cannot open.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._filesystem, self._root = connected(self.url)

    def __str__(self) -> str:
        return self.url

    def within(self, folder: str) -> RemoteStore:
        """The store of a folder of this one, over the same connection."""
        inner = object.__new__(RemoteStore)
        inner.url, inner._filesystem = f"{self.url}/{folder}", self._filesystem
        inner._root = f"{self._root}/{folder}"
        return inner

    def put(self, name: str, file: str, pieces: Iterable[memoryview]) -> None:
        path, size = self._path(name, file), 0
        with self._explaining():
            written = self._filesystem.open(path, "wb")
            try:
                for piece in pieces:
                    written.write(piece)
                    size += len(piece)
            except BaseException:
                # Closing would make a whole file of the half: its upload is given up instead.
                with contextlib.suppress(Exception):
                    written.discard()
                with contextlib.suppress(Exception):
                    written.closed = True
                raise
            written.close()
            found = self._filesystem.info(path)["size"]
        if found != size:
            raise OSError(f"{self.url}/{name}/{file} has {found} bytes after {size} were written")

    def commit(self, name: str, manifest: bytes) -> None:
        self.put(name, MANIFEST, [memoryview(manifest)])

    def discard(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.delete(name)

    def get(self, name: str, file: str, largest: int) -> bytes:
        path = self._path(name, file)
        with self._explaining():
            if self._filesystem.info(path)["size"] > largest:
                raise CheckpointError(f"{self.url}/{name}/{file}: is larger than {largest} bytes")
            content: bytes = self._filesystem.cat_file(path)
        if len(content) > largest:
            raise CheckpointError(f"{self.url}/{name}/{file}: is larger than {largest} bytes")
        return content

    def open(self, name: str, file: str, size: int) -> BufferedReader:
        path = self._path(name, file)
        with self._explaining():
            if self._filesystem.info(path)["size"] != size:
                raise CheckpointError(f"{self.url}/{name}/{file} is damaged: it does not match its manifest")
            return io.BufferedReader(self._filesystem.open(path, "rb", cache_type="readahead"))

    def list(self, *, committed: bool = True) -> list[str]:
        files = [path.split("/", 1) for path in self._files() if "/" in path]
        return sorted({name for name, file in files if not committed or file == MANIFEST})

    def delete(self, name: str) -> None:
        inside = [path for path in self._files() if path.startswith(f"{name}/")]
        # The manifest first: what is half deleted is not committed.
        for path in sorted(inside, key=lambda path: path != f"{name}/{MANIFEST}"):
            with self._explaining():
                self._filesystem.rm_file(f"{self._root}/{path}")
        if self.url.startswith("file:"):  # a bucket has no folders
            with contextlib.suppress(OSError):
                self._filesystem.rmdir(f"{self._root}/{name}")

    def _files(self) -> Sequence[str]:
        with self._explaining():
            try:
                found = self._filesystem.find(self._root)
            except FileNotFoundError:
                return []
        start = f"{self._root}/".lstrip("/")
        return [path.lstrip("/").removeprefix(start) for path in found]

    def _path(self, name: str, file: str) -> str:
        return f"{self._root}/{name}/{file}" if name else f"{self._root}/{file}"

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explained(self.url)
