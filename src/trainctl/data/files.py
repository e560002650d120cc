"""Find and read a user's file."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

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
    else:
        reason = f"{file} not found: there is no folder {folder}"
    stand_in: dict[str, object] = {
        "task": "regression" if task == "regression" else "classification",
        "shape": [4],
        "outputs": 1 if task == "regression" else 3,
    }
    raise MissingDataError(
        f"dataset={dataset}: {reason}",
        f"{similar_file(file, f'dataset.{key}=')}name your file with dataset.{key}=FILE",
        stand_in,
    )


def similar_file(file: Path, prefix: str = "") -> str:
    """The start of a remedy that names the most similar file in the folder; empty when none is close."""
    folder = file.absolute().parent
    close = nearest(file.name, [each.name for each in folder.iterdir()]) if folder.is_dir() else None
    return f"did you mean {prefix}{file.with_name(close)}? " if close else ""


@contextlib.contextmanager
def opened(file: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The content of a file, unpacked if it is gzipped, and the file itself, whose position is the progress.

    Raises ConfigError for a damaged gzip file, StorageError when it cannot be read.
    """
    try:
        with file.open("rb") as stored:
            packed = stored.read(2) == _GZIP
            stored.seek(0)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=stored)) if packed else stored, stored
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{file} is a damaged gzip file: {error}", "copy or download it again") from error
    except OSError as error:
        raise StorageError(
            f"{file} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error


def identity(path: Path) -> list[int]:
    """What tells a file from any other: size, times and inode; empty for one that is not there.

    Names, sizes and dates are not enough: files of one size and date can be exchanged. A file that is moved
    takes its inode with it, and one that is written over has another time of change, which no program sets.
    """
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
