"""Runs, files and folders that completion offers."""

from __future__ import annotations

import os
from pathlib import Path

_SECONDS = 0.1
"""For finding runs: a person waits for TAB."""
_MOST = 50
DEVICES = ("auto", "cpu", "cuda", "mps")

Offers = dict[str, str]
"""Words, and a line of explanation for each."""


def runs() -> Offers:
    """Names of runs, directories of those without one, and ``last``."""
    from trainctl.runs.directory import recent

    found = {"last": "the newest run"} if Path("outputs/latest").is_dir() else {}
    for path, name in recent(_SECONDS):
        if len(found) >= _MOST:
            break
        found.setdefault(name if name and isinstance(name, str) else str(path), str(path))
    return found


def paths(current: str, *, folders: bool = False) -> Offers:
    """Files and folders that begin with what is typed; a folder ends in a slash."""
    head, slash, start = current.rpartition("/")
    found = {}
    try:
        folder_typed = Path(head + slash or ".").expanduser()
        for entry in sorted(os.scandir(folder_typed), key=lambda each: each.name):
            folder = entry.is_dir()
            if (folder or not folders) and (start[:1] == "." or entry.name[:1] != "."):
                found[f"{head}{slash}{entry.name}{'/' * folder}"] = ""
    except (OSError, RuntimeError):  # ~NAME of nobody
        return {}
    return found
