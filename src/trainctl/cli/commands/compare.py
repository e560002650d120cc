"""A ranked table of runs: compare DIR… [--csv FILE] [--json FILE] [--html FILE] [--curves|--no-curves]."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.errors import ConfigError, StorageError, nearest

if TYPE_CHECKING:
    from trainctl.analysis.ranking import Comparison

_FILES = ("--csv", "--json", "--html")
_SWITCHES = {"--curves": True, "--no-curves": False}
_OPTIONS = (*_FILES, *_SWITCHES)
_STDOUT = "-"


@dataclass
class _Asked:
    """Where the runs are, which files to write by option, whether to draw."""

    places: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    curves: bool | None = None


def run(words: list[str]) -> int:
    """Compare the runs in the directories that ``words`` name, and show which setting won.

    Reads only, the files that are asked for aside. A run that failed or cannot be read is a line of the
    table. Raises ConfigError where there is no run, StorageError where a file cannot be written.
    """
    asked = _parse(words)
    for option, name in asked.files.items():
        if name != _STDOUT:
            _check_place(option, Path(name).expanduser())

    from trainctl.analysis.ranking import compare

    comparison = compare(asked.places)
    # The files first: whoever reads the table through a pipe may stop early.
    for option, name in asked.files.items():
        _write(option, name, _maker(option)(comparison))
    if _STDOUT not in asked.files.values():
        from trainctl.ui.compare import show

        show(comparison, sys.stdout, curves=asked.curves)
        for option, name in asked.files.items():
            print(f"{option.removeprefix('--')}: {name}")
    return 0


def _parse(words: Sequence[str]) -> _Asked:
    asked = _Asked()
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            if equals and not Path(word).exists():
                raise ConfigError(
                    f"compare {word}: takes directories, no settings", "trainctl compare DIR…, names, or last"
                )
            asked.places.append(word)
        elif name in _FILES:
            value = value if equals else left.pop(0) if left else ""
            if not value or (value.startswith("-") and value != _STDOUT):
                raise ConfigError(f"{name}: needs a file", f"trainctl compare DIR… {name} FILE, - for stdout")
            asked.files[name] = value
        elif word in _SWITCHES:
            asked.curves = _SWITCHES[word]
        else:
            close = nearest(name, _OPTIONS)
            remedy = f"did you mean {close}? " if close else ""
            raise ConfigError(
                f"{word}: compare has no such option", f"{remedy}there are: {', '.join(_OPTIONS)}"
            )
    if not asked.places:
        raise ConfigError(
            "compare needs a DIR", "trainctl compare DIR…: runs, sweeps, folders, names, or last"
        )
    if list(asked.files.values()).count(_STDOUT) > 1:
        raise ConfigError("two files cannot both go to standard output", "name a file for one of them")
    return asked


def _check_place(option: str, path: Path) -> None:
    """Before the runs are read: raise ConfigError for a folder, StorageError without one."""
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder", "name a file in it")
    if not path.parent.is_dir():
        raise StorageError(f"{option} {path}: there is no folder {path.parent}", "make it, or name another")


def _maker(option: str) -> Callable[[Comparison], str]:
    if option == "--html":
        from trainctl.ui.compare_page import render

        return render
    from trainctl.ui.compare_files import to_csv, to_json

    return to_csv if option == "--csv" else to_json


def _write(option: str, name: str, text: str) -> None:
    if name == _STDOUT:
        print(text, end="")
        return
    path = Path(name).expanduser()
    try:
        path.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise StorageError(
            f"{option} {path}: cannot be written: {error.strerror or error}", "name another file"
        ) from error
