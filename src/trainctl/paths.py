"""Where configs lie, and paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path


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
