"""Files that a test puts where the program looks for them."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, text: str) -> Path:
    """A file with this text, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
