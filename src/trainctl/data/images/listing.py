"""Which files below a folder are images: the same for training and for ``predict``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"))
# What file managers, archives and network drives put beside the files; those with a dot are hidden anyway.
_OF_SYSTEMS = frozenset(
    ("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found")
)
_THUMBNAILS = frozenset(("thumbs", "thumbnails"))


@dataclass
class Listing:
    """Image files, sorted, and what else there is.

    Attributes:
        others: how many files are no images; hidden ones do not count.
        left_out: folders that are no part of the data, by name, with their number.
    """

    images: list[Path] = field(default_factory=list)
    others: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """What was left out, in words."""
        notes = [f"{self.others} other file{'s' if self.others > 1 else ''} ignored"] if self.others else []
        if self.left_out:
            named = ", ".join(
                f"{name}/ ({count} times)" if count > 1 else f"{name}/"
                for name, count in sorted(self.left_out.items())
            )
            notes.append(f"left out: {named}")
        return notes


def is_of_a_system(name: str) -> bool:
    """Whether a folder of this name was made by a program for itself, or is hidden."""
    return name[0] == "." or name.lower() in _OF_SYSTEMS


def images_below(folder: Path, seen: set[tuple[int, int]] | None = None) -> Listing:
    """The image files below a folder. Links are followed; a folder that is linked twice is taken once.

    ``seen`` holds folders, by :func:`inode`, that no link may lead to, and is added to.
    """
    listing = Listing()
    seen = set() if seen is None else seen
    seen.add(inode(folder))
    for parent, names in _walk(folder, seen, listing.left_out):
        for name in names:
            if name[0] == ".":
                continue
            if Path(name).suffix.lower() in SUFFIXES:
                listing.images.append(Path(parent, name))
            else:
                listing.others += 1
    listing.images.sort()
    return listing


def _walk(
    folder: Path, seen: set[tuple[int, int]], left_out: Counter[str]
) -> Iterator[tuple[str, list[str]]]:
    """Each folder with its files' names, links followed; counts what is left out."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        entered = []
        # Thumbnails lie beside their images; in a folder without any, thumbs/ is a class.
        has_images = any(Path(name).suffix.lower() in SUFFIXES for name in names)
        for name in sorted(folders):
            found = inode(Path(parent, name))
            if is_of_a_system(name) or (has_images and name.lower() in _THUMBNAILS):
                if name[0] != ".":
                    left_out[name] += 1
            elif found in seen:
                left_out[f"{name} (a folder that is here already)"] += 1
            else:
                seen.add(found)
                entered.append(name)
        folders[:] = entered
        yield parent, names


def inode(folder: Path) -> tuple[int, int]:
    """What tells a folder from any other, whatever it is called."""
    status = folder.stat()
    return status.st_dev, status.st_ino
