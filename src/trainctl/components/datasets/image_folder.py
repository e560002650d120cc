"""A user's images, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from trainctl.data import AnySplit, Data, Standardize
from trainctl.data.images.decoding import Decoder
from trainctl.data.images.listing import SUFFIXES, Listing, images_below, inode, is_of_a_system
from trainctl.data.images.pixels import cached, on_demand, selected
from trainctl.errors import ConfigError, MissingDataError
from trainctl.registry import DATASETS, Count, NonNegative, Positive

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@DATASETS.register("image_folder")
def image_folder(
    path: str = "images",
    size: tuple[Count, Count] = (64, 64),
    channels: Literal[1, 3] = 3,
    resize: Literal["crop", "stretch"] = "crop",
    bad_files: Literal["error", "skip"] = "error",
    cache: bool = True,
    max_resident_gb: NonNegative = 4.0,
    mean: float = 0.5,
    std: Positive = 0.25,
) -> Data:
    """Images of your own: a folder with one sub-folder a class, named like the class.

    Or folders train/, val/ and test/, each with such sub-folders; val/ and test/ may be absent. PNG, JPEG,
    BMP, GIF (its first frame) and WEBP are read, below a class's folder at any depth; other files are ignored
    and counted. Photographs are turned upright, transparent pixels are laid over white.

    The first run decodes all images and keeps the pixels beside the folder, those of photos/ in
    .photos.trainctl/, or in the user's cache folder where that cannot be written. A file that is added,
    removed or changed makes the next run decode again.

    Args:
        path: the folder.
        size: height and width after resizing.
        channels: 3 for colour, 1 for grey.
        resize: crop fills the size and cuts off the edges; stretch changes the proportions.
        bad_files: error stops at a broken image and names it, skip leaves them out and says how many.
        cache: keep the decoded images; without, each is decoded whenever it is used.
        max_resident_gb: decoded images of up to this many GB in all are kept in memory.
        mean: subtracted from pixels in [0, 1].
        std: divides the difference.

    Shape: inputs (N, channels, *size) uint8, targets (N,) int64 in the order of the classes' names.
    """
    root, shape = Path(path).expanduser(), (channels, *size)
    listing = _list(root, shape)
    decoder, skip = Decoder((size[0], size[1]), channels, resize), bad_files == "skip"
    paths = [str(root / name) for name in listing.files]
    small = len(paths) * channels * size[0] * size[1] <= max_resident_gb * 1e9
    if cache:
        images, good, note = cached(
            root, listing.files, listing.targets, decoder, "images", shape, small=small, skip=skip
        )
    else:
        images, good, note = on_demand(paths, listing.targets, decoder, "not cached", skip=skip)
    notes = [note, _broken(root, listing.files, good, skip=skip), *listing.found.notes()]
    splits = {label: selected(images, rows, good) for label, rows in listing.rows.items()}
    _refuse_emptied(listing, splits, root)
    return Data(
        name=root.absolute().name,
        task="classification",
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        input_shape=shape,
        output_size=len(listing.classes),
        transform=Standardize(scale=255.0, mean=mean, std=std),
        classes=tuple(listing.classes),
        note="; ".join(filter(None, notes)),
        reading={"kind": "image", "resize": resize, "largest": 255},
    )


def _broken(root: Path, files: Sequence[str], good: Tensor | None, *, skip: bool) -> str:
    """A note on the broken images, empty if there are none. Raises ConfigError for one unless ``skip``."""
    if good is None or bool(good.all()):
        return ""
    broken = [name for name, fine in zip(files, good.tolist(), strict=True) if not fine]
    if not skip:
        raise ConfigError(
            f"dataset=image_folder: {root / broken[0]} is broken"
            + (f", and {len(broken) - 1} more" if len(broken) > 1 else ""),
            "repair or remove it; dataset.bad_files=skip leaves broken files out",
        )
    return f"{len(broken)} broken file{'s' if len(broken) > 1 else ''} left out"


# ------------------------------------------------------------------ listing the files


@dataclass
class _Listing:
    """The image files of a folder.

    Attributes:
        classes: the classes' names, sorted.
        files: paths below the folder, split after split and class after class.
        targets: their classes' numbers, (N,) int64.
        rows: which of the files belong to a split.
        found: what was left out.
    """

    classes: list[str]
    files: list[str] = field(default_factory=list)
    targets: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    rows: dict[str, range] = field(default_factory=dict)
    found: Listing = field(default_factory=Listing)


def _list(root: Path, shape: Sequence[int]) -> _Listing:
    if not root.is_dir():
        raise MissingDataError(
            f"dataset=image_folder: there is no folder {root.absolute()}",
            "name the folder that holds one sub-folder a class with dataset.path=DIR",
            stand_in={"task": "classification", "shape": list(shape), "outputs": 10},
        )
    folders = _split_folders(root)
    listing = _Listing(_folders_in(folders["train"]))
    for folder in dict.fromkeys([root, *folders.values()]):
        listing.found.left_out.update(_systems_folders(folder))
    if len(listing.classes) < 2:
        found = f"only {listing.classes[0]}/" if listing.classes else "none"
        raise ConfigError(
            f"dataset=image_folder: {folders['train']} needs folders of at least two classes, has {found}",
            "put the images of each class into a folder with the class's name",
        )
    targets: list[int] = []
    seen = _classes_apart(root, folders)
    for part, folder in folders.items():
        start = len(listing.files)
        for name in _folders_in(folder):
            if name not in listing.classes:
                raise ConfigError(
                    f"dataset=image_folder: {folder / name} is not a class of {folders['train']}",
                    f"there are: {', '.join(listing.classes)}",
                )
            below = images_below(folder / name, seen)
            listing.found.others += below.others
            listing.found.left_out += below.left_out
            if not below.images:
                raise ConfigError(
                    f"dataset=image_folder: {folder / name} holds no images",
                    f"images end in {', '.join(sorted(SUFFIXES))}; remove the folder if it is not a class",
                )
            listing.files += [str(image.relative_to(root)) for image in below.images]
            targets += [listing.classes.index(name)] * len(below.images)
        listing.rows[part] = range(start, len(listing.files))
        if start == len(listing.files):
            raise ConfigError(f"dataset=image_folder: {folder} holds no images", "remove or fill it")
    listing.targets = torch.tensor(targets)
    return listing


def _classes_apart(root: Path, folders: Mapping[str, Path]) -> set[tuple[int, int]]:
    """The folders of all classes and splits, which no link inside a class may lead to: it would give the
    images of one class to another. Raises ConfigError where two of them are one folder."""
    known: dict[tuple[int, int], Path] = {}
    for path in (folder / name for folder in folders.values() for name in _folders_in(folder)):
        if (other := known.setdefault(inode(path), path)) != path:
            raise ConfigError(
                f"dataset=image_folder: {path} and {other} are one folder", "remove the link to it"
            )
    return {*known, inode(root), *(inode(folder) for folder in folders.values())}


def _split_folders(root: Path) -> dict[str, Path]:
    """train/, val/ and test/ where train/ holds folders; else the folder itself, which holds the classes."""
    if not (root / "train").is_dir() or not _folders_in(root / "train"):
        return {"train": root}
    found = {
        part: [root / name for name in names if (root / name).is_dir()] for part, names in _SPLITS.items()
    }
    strangers = set(_folders_in(root)) - {name for names in _SPLITS.values() for name in names}
    if strangers or len(found["val"]) > 1:
        named = sorted(strangers) or [folder.name for folder in found["val"]]
        raise ConfigError(
            f"dataset=image_folder: beside train/, {root} holds {', '.join(f'{name}/' for name in named)}",
            "keep only one val/ and one test/ beside train/",
        )
    return {part: folders[0] for part, folders in found.items() if folders}


def _folders_in(folder: Path) -> list[str]:
    """The folders of classes or splits. Raises ConfigError for a link that leads nowhere."""
    for entry in list(os.scandir(folder)):
        if entry.is_symlink() and entry.name[0] != "." and not Path(entry.path).exists():
            raise ConfigError(
                f"dataset=image_folder: {entry.path} is a link that leads nowhere", "remove or mend it"
            )
    return sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_of_a_system(entry.name)
    )


def _systems_folders(folder: Path) -> list[str]:
    return [
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and is_of_a_system(entry.name) and entry.name[0] != "."
    ]


def _refuse_emptied(listing: _Listing, splits: dict[str, AnySplit], root: Path) -> None:
    left = torch.bincount(splits["train"].targets, minlength=len(listing.classes))
    for name, count in zip(listing.classes, left.tolist(), strict=True):
        if count == 0:
            raise ConfigError(
                f"dataset=image_folder: {root}: class {name} has no image to train on: all are broken"
            )
