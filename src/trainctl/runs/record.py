"""``run.json``, a run's record, and the checks before anything in a run directory is read."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainctl.errors import ConfigError, UnsafeInputError, storage_error
from trainctl.runs import files, strict_json

RUN_VERSION = 1
# The names of a run's files, and the largest size of those that are read whole; old ones hold a Git diff.
_FILES: Mapping[str, float] = {
    "run.json": 2**28,
    "config.yaml": 2**24,
    "config.history.yaml": 2**26,
    "overrides.yaml": 2**24,
    "metrics.jsonl": math.inf,
    "train.log": math.inf,
    "git.diff": math.inf,
    ".lock": math.inf,
}
_FOLDERS = ("checkpoints", "capsules", "logs", "profile", "tensorboard", "wandb")
UNFINISHED = {"status": "running", **dict.fromkeys(("exit_code", "reason", "ended", "last", "best", "test"))}
"""What a record says until its run ends: its checkpoints say what it has reached."""
_WHOLE_NUMBER = re.compile("[-+]?([0-9][0-9_:]*|0[box][0-9a-f_]+)", re.IGNORECASE)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord:
    """``run.json``, replaced whole at each change, so that a reader never sees a partial file.

    Attributes:
        before: what a resumed run's record said, until the run is built and its config stored: an error up to
            then is not the run's, and its record goes back to this.
    """

    before: dict[str, Any] | None = None

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
        """The record of a run that is resumed: existing values are kept, ``values`` are set."""
        record = cls.__new__(cls)
        record.path = directory / "run.json"
        record.before = read_record(directory)
        record.values = {**record.before, **values}
        record.write()
        return record

    def update(self, **values: Any) -> None:
        """Set keys and write."""
        self.values.update(values)
        self.write()

    def write(self) -> None:
        files.replace(self.path, (json.dumps(without_nan(self.values), indent=2) + "\n").encode())


def without_nan(value: Any) -> Any:
    """``value`` for JSON: numbers that are not finite become text."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def read_record(directory: Path) -> dict[str, Any]:
    """A run's ``run.json``.

    Raises ConfigError when the directory holds no run, UnsafeInputError when a name of a run's files is taken
    by something else.
    """
    path = directory / "run.json"
    _refuse_foreign(directory)
    try:
        content = strict_json.parse(path.read_bytes())
    except FileNotFoundError:
        if (directory / "sweep.json").is_file():
            raise ConfigError(
                f"{directory}: this is a sweep, not a run",
                f"give one of its runs: {directory}/0; trainctl compare {directory} ranks them",
            ) from None
        raise ConfigError(
            f"{directory}: there is no run here", "give a directory that contains run.json, or a run's name"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid: {error}") from None
    if not isinstance(content, dict) or content.get("version") != RUN_VERSION:
        raise ConfigError(f"{path}: version must be {RUN_VERSION}")
    for key, usable in _USABLE.items():
        if not usable(content.get(key)):
            raise ConfigError(f"{path} is not valid: {key} is damaged")
    return content


def _refuse_foreign(directory: Path) -> None:
    """Raise UnsafeInputError where a link, a pipe or an oversized file has the name of a run's file.

    Reading it could hang or fill the memory, and writing through a link changes files elsewhere.
    """
    for name in (*_FILES, *_FOLDERS):
        path = directory / name
        try:
            found = path.lstat()
        except OSError:
            continue
        if stat.S_ISLNK(found.st_mode):
            raise UnsafeInputError(
                f"{path} is a link to {path.readlink()}", "replace the link by the file itself"
            )
        if name in _FOLDERS:
            if not stat.S_ISDIR(found.st_mode):
                raise UnsafeInputError(f"{path} is not a folder", "trainctl did not create it")
        elif not stat.S_ISREG(found.st_mode):
            raise UnsafeInputError(f"{path} is not a regular file", "trainctl did not create it")
        elif found.st_size > _FILES[name]:
            raise UnsafeInputError(f"{path} is too large: {found.st_size} bytes", "trainctl did not write it")
        elif path.suffix == ".yaml":
            try:
                content = path.read_bytes()
            except OSError as error:
                raise storage_error(error, "reading the run") from error
            refuse_nested_yaml(content, str(path))


def refuse_nested_yaml(content: bytes, where: str) -> None:
    """Raise UnsafeInputError for YAML that uses aliases, nests deeply or has numbers of many digits: reading
    it may exhaust the memory.

    Raises ConfigError for invalid YAML. ``where`` names the source in the message.
    """
    import yaml

    depth, parser = 0, getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(content, parser):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > strict_json.DEEPEST:
                raise UnsafeInputError(
                    f"{where} has YAML aliases or is nested deeper than {strict_json.DEEPEST} levels",
                    "trainctl did not write it",
                )
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _too_long(event.value):
                raise ConfigError(f"{where} has a whole number of {len(event.value)} digits")
    except (yaml.YAMLError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{where} is not valid: {reason}", "give a run directory") from None


def _too_long(scalar: str) -> bool:
    """Whether YAML may read a whole number that fits no float."""
    return len(scalar) > strict_json.DIGITS and _WHOLE_NUMBER.fullmatch(scalar) is not None


def _usable_environment(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    threads = value.get("threads")
    return (threads is None or (type(threads) is int and 1 <= threads <= _MOST_THREADS)) and usable_plugins(
        value.get("plugins") or []
    )


def usable_plugins(stored: Any) -> bool:
    """Whether this is a list of plugin files as it is stored."""
    return isinstance(stored, list) and all(
        isinstance(each, dict) and all(isinstance(each.get(key), str) for key in ("name", "path", "sha256"))
        for each in stored
    )


def _usable_mirror(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("url"), str)
        and isinstance(value.get("id"), str | None)
    )


_MOST_THREADS = 4096
_USABLE: Mapping[str, Callable[[Any], bool]] = {
    "environment": _usable_environment,
    "mirror": _usable_mirror,
    "best": lambda value: value is None or (isinstance(value, dict) and type(value.get("step")) is int),
    "reason": lambda value: isinstance(value, str | None),
    "exit_code": lambda value: value is None or type(value) is int,
}
