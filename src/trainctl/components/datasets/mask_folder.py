"""A user's images, each with a mask of the classes of its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from trainctl.components.datasets.shapes import drawn
from trainctl.data import Data, Split, Standardize
from trainctl.data.images.decoding import Decoder, upright_size
from trainctl.data.images.listing import Listing, images_below
from trainctl.data.images.masks import SUFFIXES, MaskDecoder, write_mask
from trainctl.data.images.pixels import cached, on_demand, selected
from trainctl.data.types import IGNORED
from trainctl.errors import ConfigError, MissingDataError
from trainctl.registry import DATASETS, Count, NonNegative, NonNegativeInt, Positive

_NAME = "dataset=mask_folder"
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@DATASETS.register("mask_folder")
def mask_folder(
    path: str = "scenes",
    images: str = "images",
    masks: str = "masks",
    classes: list[str] | Count | None = None,
    values: list[NonNegativeInt] | None = None,
    ignore: NonNegativeInt | None = 255,
    size: tuple[Count, Count] | None = None,
    channels: Literal[1, 3] = 3,
    resize: Literal["crop", "stretch"] = "stretch",
    cache: bool = True,
    max_resident_gb: NonNegative = 4.0,
    mean: float = 0.5,
    std: Positive = 0.25,
    like: Mapping[str, Any] | None = None,
) -> Data:
    """Images of your own with masks: a folder of images, and one of masks with the same names.

    Or folders train/, val/ and test/, each with such two; val/ and test/ may be absent. Images are read as by
    image_folder. A mask is a PNG (or BMP, or GIF) of the size of its image, grey or with a palette; the
    number of a pixel is its class. Images without a mask are left out and counted.

    Args:
        path: the folder.
        images: the name of the folder of images in it.
        masks: the name of the folder of masks.
        classes: the classes' names, by number, or how many there are; null counts them.
        values: the number that stands for each class in the masks, in the classes' order, such as [0, 255];
            null: the numbers are the classes.
        ignore: the number of pixels that count nowhere, unless it is one of the values; null: there are none.
        size: height and width after resizing; null: that of the images, which must all have one.
        channels: 3 for colour, 1 for grey.
        resize: stretch changes the proportions; crop fills the size and cuts off the edges.
        cache: keep the decoded images; without, each is decoded whenever it is used.
        max_resident_gb: decoded images of up to this many GB in all are kept in memory; masks always are.
        mean: subtracted from pixels in [0, 1].
        std: divides the difference.

    ``like`` describes the images that a model was trained on: these have its classes.

    Shape: inputs (N, channels, *size) uint8, targets (N, *size) uint8, 255 where a pixel is ignored.
    """
    root = Path(path).expanduser()
    listing = _list(root, images, masks)
    first = str(root / listing.images[0])
    height, width = size or _size_of(first)
    _check_values(values, classes)
    pairs = {
        str(root / mask): str(root / image) for mask, image in zip(listing.masks, listing.images, strict=True)
    }
    reader = MaskDecoder(
        (height, width), resize if size else "none", None if values is None else tuple(values), ignore, pairs
    )
    targets = _masks(root, listing, reader, cache=cache)
    count, names = _classes(targets, classes, values, like)
    decoder = Decoder((height, width), channels, resize, "mask_folder", "repair or remove it")
    shape = (channels, height, width)
    small = len(pairs) * channels * height * width <= max_resident_gb * 1e9
    if cache:
        made, _, note = cached(root, listing.images, targets, decoder, "images", shape, small=small)
    else:
        made, _, note = on_demand(list(pairs.values()), targets, decoder, "not cached")
    splits = {label: selected(made, rows) for label, rows in listing.rows.items()}
    return Data(
        name=root.absolute().name,
        task="segmentation",
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        input_shape=shape,
        output_size=count,
        transform=Standardize(scale=255.0, mean=mean, std=std),
        classes=names,
        note="; ".join([note, *listing.notes(), _ignored(targets)]).removesuffix("; "),
        reading={"kind": "image", "resize": resize, "largest": 255, "classes": count, "values": values},
    )


def _check_values(values: list[int] | None, classes: list[str] | int | None) -> None:
    if values is None:
        return
    if len(set(values)) < len(values) or max(values, default=IGNORED + 1) > IGNORED:
        raise ConfigError(f"dataset.values={values}: must be different numbers from 0 to {IGNORED}")
    count = len(classes) if isinstance(classes, list) else classes
    if count not in (None, len(values)):
        raise ConfigError(
            f"dataset.values={values}: {len(values)} numbers for {count} classes", "give one number a class"
        )


def _masks(root: Path, listing: _Listing, reader: MaskDecoder, *, cache: bool) -> Tensor:
    """The classes of all pixels, (N, height, width) uint8."""
    nothing, shape = torch.empty(len(listing.masks), 0), (1, *reader.size)
    if cache:
        read, *_ = cached(
            root, listing.masks, nothing, reader, "masks", shape, small=True, sources=listing.images
        )
        assert isinstance(read, Split)
        return read.inputs.squeeze(1)
    return torch.cat([reader(str(root / mask)) for mask in listing.masks])


def _classes(
    targets: Tensor,
    classes: list[str] | int | None,
    values: list[int] | None,
    like: Mapping[str, Any] | None,
) -> tuple[int, tuple[str, ...]]:
    """How many classes there are, and their names. Raises ConfigError where the masks tell otherwise."""
    counts = torch.zeros(IGNORED + 1, dtype=torch.int64)
    for mask in targets:
        counts += torch.bincount(mask.flatten(), minlength=IGNORED + 1)
    found = counts[:IGNORED].nonzero().flatten().tolist()
    if isinstance(classes, list):
        return len(classes), tuple(classes)
    stated = classes or len(values or ()) or (like or {}).get("classes")
    if stated:
        return int(stated), ()
    if len(found) < 2 or found[-1] >= len(found):
        ignored = f", and {IGNORED}, which is ignored" if counts[IGNORED] else ""
        every = [*found, *([IGNORED] if ignored and len(found) < 2 else [])]
        shown = ", ".join(map(str, found)) or "no class"
        raise ConfigError(
            f"{_NAME}: the masks have the values {shown}{ignored}: these do not number classes from 0",
            f"number them in this order: dataset.values={every}; or give their number: dataset.classes=N",
        )
    return len(found), ()


def _ignored(targets: Tensor) -> str:
    share = sum(int((mask == IGNORED).sum()) for mask in targets) / targets.numel()
    return f"{share:.1%} of the pixels are ignored" if share else ""


def _size_of(path: str) -> tuple[int, int]:
    try:
        return upright_size(path)
    except Exception as error:  # decoders raise errors of many kinds
        raise ConfigError(f"{_NAME}: {path} is broken: {error}", "repair or remove it") from error


# ------------------------------------------------------------------ listing the files


@dataclass
class _Listing:
    """Images with their masks, as paths below the folder; ``rows`` are those of a split."""

    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    rows: dict[str, range] = field(default_factory=dict)
    without: int = 0
    found: list[Listing] = field(default_factory=list)

    def notes(self) -> Iterator[str]:
        for listing in self.found:
            yield from listing.notes()
        if self.without:
            yield f"{self.without} image{'s' if self.without > 1 else ''} without a mask left out"


def _list(root: Path, images: str, masks: str) -> _Listing:
    folders = {"train": root}
    for part, names in _SPLITS.items():
        there = [root / name for name in names if (root / name / images).is_dir()]
        folders |= {part: there[0]} if there else {}
    listing = _Listing()
    for part, folder in folders.items():
        start = len(listing.images)
        for image, mask in _pairs(folder, images, masks, listing):
            listing.images.append(str(image.relative_to(root)))
            listing.masks.append(str(mask.relative_to(root)))
        listing.rows[part] = range(start, len(listing.images))
    return listing


def _pairs(folder: Path, images: str, masks: str, listing: _Listing) -> Iterator[tuple[Path, Path]]:
    for name in (images, masks):
        if not (folder / name).is_dir():
            raise MissingDataError(
                f"{_NAME}: there is no folder {(folder / name).absolute()}",
                "name it with dataset.path=DIR, and the two in it with dataset.images and dataset.masks",
                stand_in={},
                make=write_made_up,
            )
    pictures, drawings = images_below(folder / images), images_below(folder / masks)
    listing.found += [pictures, drawings]
    by_name: dict[Path, Path] = {}
    for image in pictures.images:
        stem = image.relative_to(folder / images).with_suffix("")
        if (other := by_name.setdefault(stem, image)) != image:
            raise ConfigError(f"{_NAME}: {image} and {other} have one name", "rename or remove one of them")
    taken: dict[Path, Path] = {}
    for mask in drawings.images:
        stem = mask.relative_to(folder / masks).with_suffix("")
        if mask.suffix.lower() not in SUFFIXES:
            raise ConfigError(
                f"{_NAME}: {mask} does not keep the value of each pixel", f"save masks as {SUFFIXES[0]}"
            )
        if stem not in by_name or stem in taken:
            raise ConfigError(
                f"{_NAME}: {mask} is the mask of no image in {folder / images}, or a second one",
                f"a mask has the name of its image: {stem}.jpg, {stem}.png",
            )
        taken[stem] = mask
    if not taken:
        raise ConfigError(f"{_NAME}: {folder / masks} holds no masks", f"masks end in {', '.join(SUFFIXES)}")
    listing.without += len(by_name) - len(taken)
    for stem in sorted(taken):
        yield by_name[stem], taken[stem]


def write_made_up(folder: Path, settings: Mapping[str, Any], samples: int) -> Path:
    """A folder of drawn shapes with their masks, for a run whose own data is absent."""
    pictures, drawings = (folder / str(settings.get(key) or key) for key in ("images", "masks"))
    pictures.mkdir(parents=True, exist_ok=True)
    drawings.mkdir(parents=True, exist_ok=True)
    values = torch.tensor(settings.get("values") or range(IGNORED), dtype=torch.uint8)
    count = min(len(values), _stated(settings.get("classes")))
    images, masks = drawn(samples, 16, 0)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(pictures / f"{number}.png")
        write_mask(drawings / f"{number}.png", values[(mask % count).int()].numpy())
    return folder


def _stated(classes: Any) -> int:
    """How many classes the masks may have."""
    return min(4, len(classes) if isinstance(classes, list) else classes or 4)
