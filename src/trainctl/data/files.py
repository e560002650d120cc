"""Find and read a user's file."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from trainctl.errors import ConfigError, MissingDataError, StorageError, nearest

_GZIP = b"\x1f\x8b"


def find_file(dataset: str, key: str, path: str, task: str) -> Path:
    """The file that ``dataset.KEY`` names, relative to the current folder.

    Raises MissingDataError with the most similar name in that folder, ConfigError when it is a folder.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    if file.exists():
        raise ConfigError(
            f"dataset={dataset}: {file} is not a file", f"name one in it: dataset.{key}={file}/FILE"
        )
    folder = file.parent.absolute()
    if folder.is_dir():
        reason = f"{file.name} not found in {folder}"
        close = nearest(file.name, [other.name for other in folder.iterdir() if other.is_file()])
        hint = f"did you mean dataset.{key}={file.with_name(close)}? " if close else ""
    else:
        reason, hint = f"{file} not found: there is no folder {folder}", ""
    stand_in: dict[str, object] = {
        "task": "regression" if task == "regression" else "classification",
        "shape": [4],
        "outputs": 1 if task == "regression" else 3,
    }
    raise MissingDataError(
        f"dataset={dataset}: {reason}", f"{hint}name your file with dataset.{key}=FILE", stand_in
    )


def read_bytes(file: Path) -> bytes:
    """The whole file, unpacked if it is gzipped.

    Raises ConfigError for a damaged gzip file, StorageError when it cannot be read.
    """
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise StorageError(
            f"{file} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error
    if not raw.startswith(_GZIP):
        return raw
    try:
        return gzip.decompress(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{file} is a damaged gzip file: {error}", "copy or download it again") from error
