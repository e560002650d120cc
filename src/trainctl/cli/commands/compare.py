"""Rank runs in a table: compare DIR… [--csv FILE] [--json FILE] [--html FILE] [--curves|--no-curves]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.cli.options import output_file, sort, write_text
from trainctl.errors import ConfigError

if TYPE_CHECKING:
    from trainctl.analysis.ranking import Comparison

_FILES = {"--csv": "FILE", "--json": "FILE", "--html": "FILE"}
_CURVES = {"--curves": True, "--no-curves": False}
_STDOUT = "-"


def run(words: list[str]) -> int:
    """Compare the runs in the given directories and show which setting is best.

    Only reads, apart from the files that are asked for. A run that failed or cannot be read is a line of the
    table. Raises ConfigError where there is no run, StorageError where a file cannot be written.
    """
    places, files, flags = sort("compare", words, _FILES, list(_CURVES))
    _check(places, files)
    paths = {
        option: output_file(option, name, f"runs.{option.removeprefix('--')}")
        for option, name in files.items()
        if name != _STDOUT
    }
    from trainctl.analysis.ranking import compare

    comparison = compare(places)
    # The files first: whoever reads the table through a pipe may stop early.
    for option in files:
        text = _writer(option)(comparison)
        if option in paths:
            write_text(option, paths[option], text)
        else:
            print(text, end="")
    if len(paths) == len(files):
        from trainctl.ui.compare import show

        curves = [_CURVES[word] for word in words if word in flags]
        show(comparison, curves=curves[-1] if curves else None)
        for option, name in files.items():
            print(f"{option.removeprefix('--')}: {name}")
    return 0


def _check(places: list[str], files: dict[str, str]) -> None:
    for word in places:
        if "=" in word and not Path(word).exists():
            raise ConfigError(
                f"compare {word}: takes run directories, not settings",
                "trainctl compare DIR…, names, or last",
            )
    if not places:
        raise ConfigError(
            "compare needs a DIR", "trainctl compare DIR…: runs, sweeps, folders, names, or last"
        )
    if list(files.values()).count(_STDOUT) > 1:
        raise ConfigError("two files cannot both go to standard output", "name a file for one of them")


def _writer(option: str) -> Callable[[Comparison], str]:
    if option == "--html":
        from trainctl.ui.compare_page import render

        return render
    from trainctl.ui.compare_files import to_csv, to_json

    return to_csv if option == "--csv" else to_json
