"""Images in a folder, or one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from trainctl.data.images.decoding import Decoder, in_threads, reason_of, upright_size
from trainctl.data.images.listing import SUFFIXES, Listing, images_below
from trainctl.errors import ConfigError
from trainctl.inference.readers.base import Batch


def takes_images(raw: Mapping[str, Any]) -> bool:
    """Whether raw samples are pixels: bytes in one or three channels."""
    return raw["dtype"] == "uint8" and len(raw["shape"]) == 3 and raw["shape"][0] in (1, 3)


class ImageFiles:
    """All images below a folder, in the order of their names, or a single one.

    They are decoded as in training: turned upright, transparency over white, resized, converted to its
    channels.
    """

    unit = "file"
    has_notes = False

    def __init__(self, path: Path, raw: Mapping[str, Any], reading: Mapping[str, Any]) -> None:
        self.root = path if path.is_dir() else path.parent
        listing = images_below(path) if path.is_dir() else Listing([path])
        self.files = sorted(str(image.relative_to(self.root)) for image in listing.images)
        if not self.files:
            raise ConfigError(
                f"--input {path}: no images found", f"images end in {', '.join(sorted(SUFFIXES))}"
            )
        self.notices = listing.notes()
        self._read_as(raw, reading, len(self.files))

    def _read_as(self, raw: Mapping[str, Any], reading: Mapping[str, Any], total: int) -> None:
        channels, height, width = raw["shape"]
        self.decode = Decoder((height, width), channels, reading.get("resize", "crop"))
        self.largest = int(reading.get("largest", 255))
        # Training on a folder of images resizes them, too; after any other training it is worth a remark.
        self.resizing_is_new = reading.get("kind") != "image" or self.largest != 255
        self.total, self.done, self.resized = total, 0, 0

    def batches(self, size: int) -> Iterator[Batch]:
        yield from self._batches(in_threads(self._load, self.files), self.files, size)

    def _batches(
        self, made: Iterator[Tensor | str], names: Sequence[int | str], size: int
    ) -> Iterator[Batch]:
        empty = torch.empty(0, self.decode.channels, *self.decode.size, dtype=torch.uint8)
        while found := list(islice(made, size)):
            start, self.done = self.done, self.done + len(found)
            errors = {place: each for place, each in enumerate(found) if isinstance(each, str)}
            good = [each for each in found if not isinstance(each, str)]
            yield Batch(tuple(names[start : self.done]), torch.stack(good) if good else empty, errors)

    def size_of(self, name: int | str) -> tuple[int, int]:
        """Height and width of a file's image."""
        return upright_size(str(self.root / str(name)))

    def _load(self, name: str) -> Tensor | str:
        """The pixels, or why the file cannot be read."""
        path = str(self.root / name)
        try:
            image = self.decode(path)
        except ConfigError as error:
            return f"cannot be read: {reason_of(error.__cause__).replace(path, name)}"
        if self.resizing_is_new:
            with Image.open(path) as header:
                self._count(header)
        return self._scaled(image)

    def _count(self, image: Any) -> None:
        self.resized += image.size != (self.decode.size[1], self.decode.size[0])

    def _scaled(self, image: Tensor) -> Tensor:
        if self.largest == 255:
            return image
        return (image.to(torch.float32) * (self.largest / 255)).round().to(torch.uint8)

    def remarks(self) -> list[str]:
        size = "×".join(map(str, self.decode.size))
        return [f"{self.resized} images of another size were resized to {size}"] if self.resized else []


class HeldImages(ImageFiles):
    """Images that Pillow has opened; they are left as they are."""

    unit = "row"

    def __init__(self, images: Sequence[Any], raw: Mapping[str, Any], reading: Mapping[str, Any]) -> None:
        self.images, self.notices = images, list[str]()
        self._read_as(raw, reading, len(images))

    def batches(self, size: int) -> Iterator[Batch]:
        yield from self._batches(map(self._held, self.images), range(1, self.total + 1), size)

    def _held(self, image: Any) -> Tensor | str:
        # Not read from its file yet: decoded from there, a large JPEG at a part of its size.
        path = getattr(image, "filename", "") if getattr(image, "tile", None) else ""
        try:
            pixels = self.decode(path) if path else self.decode.picture(image.copy())
        except Exception as error:  # decoders raise errors of many kinds
            return f"cannot be read: {reason_of(error.__cause__ or error)}"
        if self.resizing_is_new:
            self._count(image)
        return self._scaled(pixels)

    def size_of(self, name: int | str) -> tuple[int, int]:
        width, height = ImageOps.exif_transpose(self.images[int(name) - 1]).size
        return height, width
