"""Whose plugins may be imported: those of runs and sweeps that this user trained on this machine.

A run directory is untrusted: a digest that lies in it says nothing about who wrote it. The user's own state
folder has a file for each run with plugins, named by the hash of the run's path.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainctl.errors import UnsafeInputError
from trainctl.registry import plugins
from trainctl.runs import files, strict_json

log = logging.getLogger("trainctl")
_LARGEST_SOURCE = 2**16
_REMEDY = "if you trust it, say so with --trust-plugins (trust_plugins=True in Python)"


def remember(directory: Path, stored: Sequence[Mapping[str, str]], environment: Iterable[str] = ()) -> None:
    """Write down that this user's command imports these plugins for the run or sweep in ``directory``, and
    that its config may refer to these variables of the ``environment``; ``*`` stands for all."""
    try:
        files.make_folder(_folder())
        content: dict[str, object] = {
            "run": str(directory.resolve()),
            "plugins": [{**entry, **_source(Path(entry["path"]))} for entry in stored],
        }
        content["environment"] = sorted(environment)
        files.replace(_record(directory), json.dumps(content).encode())
    except (OSError, ValueError, RuntimeError) as error:
        log.warning("%s cannot be written: using this run takes --trust-plugins (%s)", "state folder", error)


def checker(directory: Path, *, trust_plugins: bool) -> Callable[[list[str]], None]:
    """What refuses the plugins of the run or sweep in ``directory``, unless they are trusted."""

    def trusted(named: list[str]) -> None:
        if not trust_plugins:
            refuse_untrusted(named, directory)

    return trusted


def refuse_untrusted(named: Iterable[str], directory: Path) -> None:
    """Raise UnsafeInputError for plugins of a run that this user did not train here, or that have changed.

    What a sweep may import, its runs may.
    """
    names = list(named)
    if not names:
        return
    own, around = _remembered(directory), _remembered(directory.parent)
    if own is None and around is None:
        raise UnsafeInputError(
            f"plugins: {directory} imports {', '.join(names)}, and you did not train it on this machine",
            _REMEDY,
        )
    plugins.refuse_changed(names, [*(own or ()), *(around or ())])


def is_own(directory: Path) -> bool:
    """Whether this user trained in ``directory`` on this machine."""
    return _remembered(directory) is not None


def environment_of(directory: Path) -> set[str]:
    """The variables of the environment that the config of this run, or of its sweep, may refer to."""
    found: set[str] = set()
    for each in (directory, directory.parent):
        if (content := _content(each)) is not None and isinstance(names := content.get("environment"), list):
            found.update(map(str, names))
    return found


def _source(path: Path) -> dict[str, str]:
    """The text of a plugin, so that what has changed in it can be shown."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.stat().st_size <= _LARGEST_SOURCE:
            return {"source": path.read_text()}
    return {}


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"  # noqa: PTH117
    return base / "trainctl" / "runs"


def _record(directory: Path) -> Path:
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()
    return _folder() / f"{name}.json"


def _content(directory: Path) -> dict[str, Any] | None:
    try:
        content = strict_json.parse(_record(directory).read_bytes())
        return content if content["run"] == str(directory.resolve()) else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _remembered(directory: Path) -> list[dict[str, str]] | None:
    try:
        content = _content(directory)
        if content is None:
            return None
        return [
            {
                **{key: str(entry[key]) for key in ("name", "path", "sha256")},
                "source": str(entry.get("source", "")),
            }
            for entry in content["plugins"]
        ]
    except (KeyError, TypeError):
        return None
