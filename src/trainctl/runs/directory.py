"""The run directory: created exclusively, locked while training, found again by path, name or ``last``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from trainctl.errors import ConfigError, DirectoryTakenError, storage_error
from trainctl.runs import files, strict_json
from trainctl.runs.record import RUN_VERSION

CURVES, CONFUSION = "curves.svg", "confusion.svg"
# Seconds: a reader that looks whether the lock is free holds it for less.
_MOMENT = 0.2


def claim(path: Path, *, named: bool) -> Path:
    """Create the run directory and claim it for this process; returns its absolute path.

    A directory that the user named must be new or empty; an automatic one gets the suffix ``-2``, ``-3`` …
    when the name is taken. The claim is the exclusive creation of ``run.json``. Raises DirectoryTakenError
    (exit 7) or StorageError (exit 5).
    """
    return _claim(path, named, "run.json", "hydra.run.dir")


def claim_sweep(path: Path, *, named: bool) -> Path:
    """The same for a sweep's directory, which contains its jobs' directories; the claim is ``sweep.json``."""
    return _claim(path, named, "sweep.json", "hydra.sweep.dir")


def _claim(path: Path, named: bool, marker: str, key: str) -> Path:
    path = path.expanduser().absolute()
    noun = marker.removesuffix(".json")
    try:
        candidate, number = path, 1
        while not _create(candidate, marker):
            if named:
                raise DirectoryTakenError(
                    f"{path} already holds a {noun}" if (path / marker).exists() else f"{path} is not empty",
                    f"name another directory with {key}=DIR, or leave it out for an automatic one",
                )
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
    except OSError as error:
        raise storage_error(error, f"creating the {noun} directory") from error
    return candidate


def _create(path: Path, marker: str) -> bool:
    files.make_folder(path)
    if any(path.iterdir()):
        return False
    try:
        files.create(path / marker, json.dumps({"version": RUN_VERSION, "status": "running"}).encode())
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def lock(directory: Path, *, wait: float = _MOMENT) -> Iterator[None]:
    """Hold the lock of ``directory``: only one process trains in it, or reads what it will train on.

    It is a kernel lock on ``.lock``, released when the process ends for whatever reason. Raises
    DirectoryTakenError (exit 7) when another process holds it for ``wait`` seconds, StorageError (exit 5)
    when locking fails.
    """
    path, until = directory / ".lock", time.monotonic() + wait
    try:
        while (descriptor := _lock_now(path)) is None:
            if time.monotonic() >= until:
                holder = path.read_bytes()[:200].decode("utf-8", "replace").strip()
                raise DirectoryTakenError(
                    f"{directory}: another process is training in it{f' ({holder})' if holder else ''}",
                    "wait for that process, or stop it first",
                )
            time.sleep(_MOMENT / 10)
    except OSError as error:
        raise storage_error(error, "locking the run directory") from error
    try:
        with contextlib.suppress(OSError):  # only for the message above
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock_now(path: Path) -> int | None:
    """The file ``path``, open and locked; None where another process holds it. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        # Not found: the directory was renamed, and another one has its name.
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_training(directory: Path) -> bool:
    """Whether a process is training in ``directory`` now. The lock file is left as it is."""
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


def set_aside(directory: Path) -> None:
    """Rename the run directory to the next free ``<name>.attempt-<k>``."""
    number = 1
    while (aside := directory.with_name(f"{directory.name}.attempt-{number}")).exists():
        number += 1
    files.rename(directory, aside)


def point_latest(directory: Path) -> str | None:
    """Make ``outputs/latest`` a link to ``directory`` if ``outputs`` exists; returns the reason it failed."""
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
        # The link is a convenience: the run continues without it.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return f"outputs/latest was not set: {error.strerror}"
    return None


def find(run: str | Path) -> Path:
    """The directory of RUN: a path, ``last`` for the newest run, or the name given with ``name=``.

    A folder without a run or a sweep gives way to a run of that name. Raises ConfigError when there is none.
    """
    folder = None
    with contextlib.suppress(OSError):  # not a valid file name
        folder = Path(run).resolve() if Path(run).is_dir() else None
    if folder and ("/" in str(run) or any((folder / file).exists() for file in ("run.json", "sweep.json"))):
        return folder
    outputs = Path.cwd() / "outputs"
    if "://" in str(run):
        raise ConfigError(
            f"{run}: a URL serves resume, eval, predict, export, compare, init_from and trainctl.load only",
            "give a directory",
        )
    if str(run) == "last":
        if (outputs / "latest").is_dir():
            return (outputs / "latest").resolve()
        if folder:
            return folder
        raise ConfigError(f"last: there is no run in {outputs}", "train one, or give a run directory")
    named = [path.parent for path in outputs.glob("**/run.json") if _name_of(path) == str(run)]
    if not named:
        if folder:
            return folder
        raise ConfigError(f"{run}: no such directory, and no run with that name in {outputs}")
    return max(named, key=lambda path: (path / "run.json").stat().st_mtime).resolve()


def recent(seconds: float) -> Iterator[tuple[Path, str | None]]:
    """Runs and sweeps below ``outputs`` and their names, the newest first, for so many seconds at most."""
    until, left = time.monotonic() + seconds, [Path("outputs")]
    while left and time.monotonic() < until:
        folder = left.pop()
        try:
            inside = {entry.name: entry for entry in os.scandir(folder)}
            below = [entry for entry in inside.values() if entry.is_dir(follow_symlinks=False)]
            below.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
        except OSError:
            continue
        if "run.json" in inside:
            yield folder, _name_of(folder / "run.json")
            continue
        if "sweep.json" in inside:
            yield folder, None
        left += [Path(entry.path) for entry in below]


def also_named(name: str | None) -> list[str]:
    """A notice that a run of ``outputs`` has the name that another one takes now. Looks for a moment only."""
    older = next((folder for folder, known in recent(_MOMENT) if known == name), None) if name else None
    return [f"name={name}: {older} has this name, too; from now on it means this run"] if older else []


def _name_of(path: Path) -> str | None:
    try:
        content = strict_json.parse(files.read(path))
    except (OSError, ValueError):
        return None
    return content.get("name") if isinstance(content, dict) else None
