"""Images in a folder, or one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
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

    def __init__(self, path: Path, raw: Mapping[str, Any], reading: Mapping[str, Any]) -> None:
        channels, height, width = raw["shape"]
        self.root = path if path.is_dir() else path.parent
        listing = images_below(path) if path.is_dir() else Listing([path])
        self.files = sorted(str(image.relative_to(self.root)) for image in listing.images)
        if not self.files:
            raise ConfigError(
                f"--input {path}: no images found", f"images end in {', '.join(sorted(SUFFIXES))}"
            )
        self.notices = listing.notes()
        self.decode = Decoder((height, width), channels, reading.get("resize", "crop"))
        self.largest = int(reading.get("largest", 255))
        # Training on a folder of images resizes them, too; after any other training it is worth a remark.
        self.resizing_is_new = reading.get("kind") != "image" or self.largest != 255
        self.total, self.done, self.resized = len(self.files), 0, 0

    def batches(self, size: int) -> Iterator[Batch]:
        empty = torch.empty(0, self.decode.channels, *self.decode.size, dtype=torch.uint8)
        made = in_threads(self._load, self.files)
        while found := list(islice(made, size)):
            names = self.files[self.done : self.done + len(found)]
            self.done += len(found)
            errors = {place: each for place, each in enumerate(found) if isinstance(each, str)}
            good = [each for each in found if not isinstance(each, str)]
            yield Batch(tuple(names), torch.stack(good) if good else empty, errors)

    def size_of(self, name: str) -> tuple[int, int]:
        """Height and width of a file's image."""
        return upright_size(str(self.root / name))

    def _load(self, name: str) -> Tensor | str:
        """The pixels, or why the file cannot be read."""
        path = str(self.root / name)
        try:
            image = self.decode(path)
        except ConfigError as error:
            return f"cannot be read: {reason_of(error.__cause__).replace(path, name)}"
        if self.resizing_is_new:
            with Image.open(path) as header:
                self.resized += header.size != (self.decode.size[1], self.decode.size[0])
        if self.largest != 255:
            image = (image.to(torch.float32) * (self.largest / 255)).round().to(torch.uint8)
        return image

    def remarks(self) -> list[str]:
        size = "×".join(map(str, self.decode.size))
        return [f"{self.resized} images of another size were resized to {size}"] if self.resized else []
