"""Where configs lie, and paths as people type them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_SAFE = "PYTHONSAFEPATH"


def conf_directory() -> Path:
    """trainctl's own configs: inside the package when installed, at the repository's root when editable."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def user_conf() -> Path | None:
    """The ``conf`` folder of the current directory, unless it is trainctl's own."""
    folder = Path.cwd() / "conf"
    return folder if folder.is_dir() and folder.resolve() != conf_directory() else None


def cache_folder() -> Path:
    """What trainctl keeps for the user between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainctl"


def short_path(path: Path) -> str:
    """A path as short as it can be typed from the current directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Interpreters started inside do not look for modules in the current folder first.

    There a ``random.py`` of the user's would hide Python's own.
    """
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_SAFE) if before is None else os.environ.update({_SAFE: before})
