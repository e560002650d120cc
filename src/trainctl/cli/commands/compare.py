"""Rank runs in a table, and say which setting is best."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainctl.cli.options import STDOUT, Argument, Command, Option, output_file, write_text
from trainctl.errors import ConfigError

if TYPE_CHECKING:
    from trainctl.analysis.ranking import Comparison

_FILES = tuple(
    output_file(f"--{kind}", f"write {text} (- is standard output)", "FILE", stdout=True)
    for kind, text in (
        ("csv", "a row for each run as CSV"),
        ("json", "everything as JSON"),
        ("html", "a page to share"),
    )
)
_CURVES = {"--curves": True, "--no-curves": False}
COMMAND = Command(
    __name__,
    __doc__,
    (
        Argument(
            "DIR",
            "runs, sweeps, folders of them, names, last, or URLs of checkpoint.mirror",
            most=None,
            offer="RUN",
        ),
    ),
    (
        *_FILES,
        Option("--failed", "list every run that failed, not their number and the reasons"),
        Option("--curves", "plot the best runs, also in a pipe"),
        Option("--no-curves", "plot nothing, also on a terminal"),
    ),
    (
        ("All runs below outputs, the best first.", "trainctl compare outputs"),
        ("Two runs by name, and a page for colleagues.", "trainctl compare first second --html runs.html"),
    ),
    {3: ""},
)


def run(words: list[str]) -> int:
    """Compare the runs in the given directories and show which setting is best.

    Only reads, apart from the files that are asked for. A run that cannot be read is a line of the table,
    as is one that failed; several that failed are one line. Raises ConfigError where there is no run,
    StorageError where a file cannot be written.
    """
    asked = COMMAND.parse(words)
    files = {option.name: asked[option.name] for option in _FILES if asked[option.name] is not None}
    if list(files.values()).count(STDOUT) > 1:
        raise ConfigError("two files cannot both go to standard output", "name a file for one of them")
    from trainctl.analysis.ranking import compare

    comparison = compare(asked.words)
    # The files first: whoever reads the table through a pipe may stop early.
    for option, path in files.items():
        text = _writer(option)(comparison)
        if path == STDOUT:
            print(text, end="")
        else:
            write_text(option, path, text)
    if STDOUT not in files.values():
        from trainctl.ui.compare import show

        curves = [_CURVES[word] for word in words if word in _CURVES]
        show(comparison, curves=curves[-1] if curves else None, failed=asked["--failed"])
        for option, path in files.items():
            print(f"{option.removeprefix('--')}: {path}")
    return 0


def _writer(option: str) -> Callable[[Comparison], str]:
    if option == "--html":
        from trainctl.ui.compare_page import render

        return render
    from trainctl.ui.compare_files import to_csv, to_json

    return to_csv if option == "--csv" else to_json
