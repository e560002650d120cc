"""What completion offers for an argument, for the value of an option and for a setting."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainctl.cli.commands import verbs

_SECONDS = 0.1
"""For finding runs: a person waits for TAB."""
_MOST = 50
_SETTING = "KEY=VALUE"
DEVICES = ("auto", "cpu", "cuda", "mps")

Offers = dict[str, str]
"""Words, and a line of explanation for each."""


def values(kind: str, words: Sequence[str], current: str) -> Offers:
    """The words for what stands on the help page: RUN, FILE|FOLDER, KEY=VALUE, auto|N.

    Args:
        kind: what stands for the word.
        words: the words before, after the verb.
        current: the word that is being typed.
    """
    if kind.endswith(_SETTING):
        from trainctl.cli.offered_settings import settings

        return {word: "" for word in settings(words, current) if word.startswith(kind[: -len(_SETTING)])}
    found: Offers = {}
    for each in kind.split("|"):
        if each == "RUN":
            found |= runs() | (paths(current, folders=True) if current else {})
        elif each.startswith("FILE"):
            found |= paths(current)
        elif each in ("DIR", "FOLDER"):
            found |= paths(current, folders=True)
        elif each == "VERB":
            found |= verbs()
        elif each == "DEVICE":
            found |= dict.fromkeys(DEVICES, "")
        elif each.startswith("GROUP"):
            found |= _members(current)
        elif each.islower():
            found[each] = ""
    return found


def runs() -> Offers:
    """Names of runs, directories of those without one, and ``last``."""
    from trainctl.runs.directory import recent

    found = {"last": "the newest run"} if Path("outputs/latest").is_dir() else {}
    for path, name in recent(_SECONDS):
        if len(found) >= _MOST:
            break
        found.setdefault(name if isinstance(name, str) else str(path), str(path))
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
    except OSError:
        return {}
    return found


def _members(current: str) -> Offers:
    """Groups for ``ls``, or the options of the one that is typed."""
    from trainctl.config.options import find_members

    groups, (group, equals, _) = find_members(), current.partition("=")
    return dict.fromkeys((f"{group}={each}" for each in groups.get(group, ())) if equals else groups, "")
