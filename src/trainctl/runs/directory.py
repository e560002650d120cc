"""The run directory: taken exclusively, described in ``run.json``, found again by path, name or ``last``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainctl.errors import ConfigError, DirectoryTakenError, UnsafeInputError, storage_error
from trainctl.runs import files

CURVES, CONFUSION = "curves.png", "confusion.png"
RUN_VERSION = 1
# A run's own names, and how large its files can be that are read whole; a Git diff may be long.
_FILES: Mapping[str, float] = {
    "run.json": 2**28,
    "config.yaml": 2**24,
    "config.history.yaml": 2**26,
    "overrides.yaml": 2**24,
    "metrics.jsonl": math.inf,
    "train.log": math.inf,
    ".lock": math.inf,
}
_FOLDERS = ("checkpoints", "capsules", "profile")
_DEEPEST = 100


def claim(path: Path, *, named: bool) -> Path:
    """Make the run directory and take it, so that no other process can; returns its absolute path.

    A directory that the user named must be new or empty; an automatic one gets ``-2``, ``-3`` … when it is
    taken. Taking is the exclusive creation of ``run.json``. Raises DirectoryTakenError (exit 7) or
    StorageError (exit 5).
    """
    return _claim(path, named, "run.json", "hydra.run.dir")


def _claim(path: Path, named: bool, marker: str, key: str) -> Path:
    path = path.expanduser().absolute()
    noun = marker.removesuffix(".json")
    try:
        candidate, number = path, 1
        while not _take(candidate, marker):
            if named:
                raise DirectoryTakenError(
                    f"{path} already holds a {noun}" if (path / marker).exists() else f"{path} is not empty",
                    f"name another directory with {key}=DIR, or leave it out for an automatic one",
                )
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
    except OSError as error:
        raise storage_error(error, f"making the {noun} directory") from error
    return candidate


def _take(path: Path, marker: str) -> bool:
    files.make_folder(path)
    if any(path.iterdir()):
        return False
    try:
        files.create(path / marker, json.dumps({"version": RUN_VERSION, "status": "running"}).encode())
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Be the only process that trains in ``directory``.

    The lock is the kernel's, on ``.lock``: it goes with the process that holds it, however that ends. Raises
    DirectoryTakenError (exit 7) when another process has it, StorageError (exit 5) when it cannot be taken.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(directory / ".lock", flags, 0o666)
    except OSError as error:
        raise storage_error(error, "locking the run directory") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            raise DirectoryTakenError(
                f"{directory}: another process is training in it{f' ({holder})' if holder else ''}",
                "wait for it, or stop it first",
            ) from None
        except OSError as error:
            raise storage_error(error, "locking the run directory") from error
        with contextlib.suppress(OSError):  # only for the message above
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def locked(directory: Path) -> bool:
    """Whether a process is training in ``directory`` now."""
    try:
        with lock(directory):
            return False
    except DirectoryTakenError:
        return True


def is_training(directory: Path) -> bool:
    """The same for a directory that is only read: the lock is not written, nor made."""
    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def claim_sweep(path: Path, *, named: bool) -> Path:
    """The same for a sweep's directory, which its jobs' directories go into; ``sweep.json`` takes it."""
    return _claim(path, named, "sweep.json", "hydra.sweep.dir")


def point_latest(directory: Path) -> str | None:
    """Let ``outputs/latest`` point at the newest run, if there is an ``outputs``; says why it could not."""
    outputs = Path.cwd() / "outputs"
    if not outputs.is_dir():
        return None
    inside = directory.is_relative_to(outputs)
    temporary = outputs / f".latest.{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(directory.relative_to(outputs) if inside else directory)
        temporary.replace(outputs / "latest")
    except OSError as error:
        # A convenience: the run does not depend on it.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return f"outputs/latest was not set: {error.strerror}"
    return None


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord:
    """``run.json``: replaced as a whole at each change, so that a reader never sees half of it.

    ``begun`` says that the run was built and its config stored: from then on what happens is the run's.
    """

    begun = False

    def __init__(self, directory: Path, **values: Any) -> None:
        self.path = directory / "run.json"
        self.values: dict[str, Any] = {
            "version": RUN_VERSION,
            "status": "running",
            "exit_code": None,
            "reason": None,
            "engine": "standard",
            "started": now(),
            "ended": None,
            "parameters": None,
            "monitor": None,
            "last": None,
            "best": None,
            "test": None,
            **values,
        }
        self.write()

    @classmethod
    def again(cls, directory: Path, **values: Any) -> RunRecord:
        """The record of a run that is carried on: what stands there stays, ``values`` are set."""
        record = cls.__new__(cls)
        record.path = directory / "run.json"
        record.values = {**read_record(directory), **values}
        record.write()
        return record

    def update(self, **values: Any) -> None:
        """Set keys and write."""
        self.values.update(values)
        self.write()

    def write(self) -> None:
        files.replace(self.path, (json.dumps(_without_nan(self.values), indent=2) + "\n").encode())


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def read_record(directory: Path) -> dict[str, Any]:
    """A run's ``run.json``.

    Raises ConfigError when the directory holds no run, UnsafeInputError when what lies under the names of a
    run's files is something else.
    """
    path = directory / "run.json"
    _refuse_foreign(directory)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (directory / "sweep.json").is_file():
            raise ConfigError(
                f"{directory}: this is a sweep of several runs",
                f"give one of them: {directory}/0; trainctl compare {directory} ranks them",
            ) from None
        raise ConfigError(
            f"{directory}: there is no run here", "give a directory that holds run.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid: {error}") from None
    if not isinstance(content, dict) or content.get("version") != RUN_VERSION:
        raise ConfigError(f"{path} has another version than {RUN_VERSION}")
    for key, usable in _USABLE.items():
        if not usable(content.get(key)):
            raise ConfigError(f"{path} is not valid: {key} is damaged")
    return content


def _refuse_foreign(directory: Path) -> None:
    """Raise UnsafeInputError where a link, a pipe or a file of absurd size has the name of a run's file.

    Reading may hang there or fill the memory, and writing changes what lies elsewhere.
    """
    for name in (*_FILES, *_FOLDERS):
        path = directory / name
        try:
            found = path.lstat()
        except OSError:
            continue
        if stat.S_ISLNK(found.st_mode):
            raise UnsafeInputError(f"{path} is a link to {path.readlink()}", "put the file there instead")
        if name in _FOLDERS:
            if not stat.S_ISDIR(found.st_mode):
                raise UnsafeInputError(f"{path} is no folder", "trainctl did not make it")
        elif not stat.S_ISREG(found.st_mode):
            raise UnsafeInputError(f"{path} is no plain file", "trainctl did not make it")
        elif found.st_size > _FILES[name]:
            raise UnsafeInputError(f"{path} has {found.st_size} bytes", "trainctl did not write it")
        elif path.suffix == ".yaml":
            try:
                content = path.read_bytes()
            except OSError as error:
                raise storage_error(error, "reading the run") from error
            refuse_endless(content, str(path))


def refuse_endless(content: bytes, where: str) -> None:
    """Raise UnsafeInputError for YAML that reading would make larger than the memory, or that never ends.

    Raises ConfigError for what is no YAML. ``where`` says what it is.
    """
    import yaml

    depth, parser = 0, getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(content, parser):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
                raise UnsafeInputError(f"{where} repeats or nests itself", "trainctl did not write it")
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{where} is not valid: {reason}", "give the directory of a run") from None


def _usable_environment(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    threads, stored = value.get("threads"), value.get("plugins") or []
    return (threads is None or (type(threads) is int and 1 <= threads <= _MOST_THREADS)) and (
        isinstance(stored, list)
        and all(
            isinstance(each, dict)
            and all(isinstance(each.get(key), str) for key in ("name", "path", "sha256"))
            for each in stored
        )
    )


_MOST_THREADS = 4096
_USABLE: Mapping[str, Callable[[Any], bool]] = {
    "environment": _usable_environment,
    "best": lambda value: value is None or (isinstance(value, dict) and type(value.get("step")) is int),
}


def find(run: str | Path) -> Path:
    """The directory of RUN: a path, ``last`` for the newest run, or the name given with ``name=``.

    Raises ConfigError when there is none.
    """
    with contextlib.suppress(OSError):  # no name that a file could have
        if Path(run).is_dir():
            return Path(run).resolve()
    outputs = Path.cwd() / "outputs"
    if str(run) == "last":
        if (outputs / "latest").is_dir():
            return (outputs / "latest").resolve()
        raise ConfigError(f"last: there is no run in {outputs}", "train one, or give its directory")
    named = [path.parent for path in outputs.glob("**/run.json") if _name_of(path) == str(run)]
    if not named:
        raise ConfigError(f"{run}: no such directory, and no run of that name in {outputs}")
    return max(named, key=lambda path: (path / "run.json").stat().st_mtime).resolve()


def _name_of(path: Path) -> str | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("name") if isinstance(content, dict) else None
