"""The run directory: taken exclusively, described in ``run.json``, found again by path, name or ``last``."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainctl.errors import ConfigError, DirectoryTakenError, storage_error

RUN_VERSION = 1


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
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        return False
    try:
        with (path / marker).open("x", encoding="utf-8") as file:
            json.dump({"version": RUN_VERSION, "status": "running"}, file)
    except FileExistsError:
        return False
    return True


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
    """``run.json``: replaced as a whole at each change, so that a reader never sees half of it."""

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
            "last": None,
            "best": None,
            "test": None,
            **values,
        }
        self.write()

    def update(self, **values: Any) -> None:
        """Set keys and write."""
        self.values.update(values)
        self.write()

    def write(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(_without_nan(self.values), indent=2) + "\n", encoding="utf-8")
            temporary.replace(self.path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def read_record(directory: Path) -> dict[str, Any]:
    """A run's ``run.json``. Raises ConfigError when the directory holds no run."""
    path = directory / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{directory}: there is no run here", "give a directory that holds run.json"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid: {error}") from None
    if not isinstance(content, dict) or content.get("version") != RUN_VERSION:
        raise ConfigError(f"{path} has another version than {RUN_VERSION}")
    return content


def find(run: str | Path) -> Path:
    """The directory of RUN: a path, ``last`` for the newest run, or the name given with ``name=``.

    Raises ConfigError when there is none.
    """
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
