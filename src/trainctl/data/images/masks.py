"""Mask files: the class of each pixel of an image, to and from PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from PIL import Image, ImageOps
from torch import Tensor

from trainctl.data.images.decoding import FORMATS, opened, upright_size
from trainctl.data.types import IGNORED
from trainctl.errors import ConfigError

SUFFIXES = (".png", ".bmp", ".gif")
"""Formats that keep each value."""
_NUMBERS = ("1", "L", "P")
_SHOWN = 8


@dataclass(frozen=True)
class MaskDecoder:
    """Reads a mask: the number of each pixel in grey or palette images, which is its class.

    Args:
        size: height and width to bring it to, as a :class:`~trainctl.data.images.decoding.Decoder` does; the
            class of a pixel is that of the nearest one.
        resize: as in a ``Decoder``; ``none`` refuses images of another size.
        values: the number of each class, in their order; None: the numbers are the classes.
        ignore: the number of pixels that count nowhere, None if there are none.
        images: the image of each mask, by paths.

    Calling it with a path gives (1, *size) uint8, ``IGNORED`` where a pixel counts nowhere. Raises
    ConfigError naming the file for a mask of colours, of other numbers, or of another size than its image.
    """

    size: tuple[int, int]
    resize: Literal["none", "crop", "stretch"]
    values: tuple[int, ...] | None
    ignore: int | None
    images: Mapping[str, str] = field(repr=False)

    def __call__(self, path: str) -> Tensor:
        image = self.images[path]
        try:
            image_size = upright_size(image)
        except Exception as error:  # decoders raise errors of many kinds
            raise _broken(image, error) from error
        try:
            with opened(path) as file, Image.open(file, formats=FORMATS) as opened_mask:
                mode, found = opened_mask.mode, numpy.array(opened_mask)
        except Exception as error:
            raise _broken(path, error) from error
        if mode not in _NUMBERS and not mode.startswith("I"):
            raise ConfigError(
                f"dataset=mask_folder: {path} has pixels of {mode}, {found.shape}; a mask has one number a"
                f" pixel, {found.shape[:2]}",
                "save the class number of each pixel in one channel: a grey or palette PNG",
            )
        if found.shape != image_size:
            raise ConfigError(
                f"dataset=mask_folder: {path} has {_shown(found.shape)} pixels (height×width), its image"
                f" {image} {_shown(image_size)}",
                "a mask must have the size of its image",
            )
        if self.resize == "none" and image_size != self.size:
            raise ConfigError(
                f"dataset=mask_folder: {image} has {_shown(image_size)} pixels (height×width), the first"
                f" {_shown(self.size)}",
                f"bring all to one size: dataset.size=[{self.size[0]},{self.size[1]}]",
            )
        return torch.from_numpy(self._resized(self._classes(path, found.astype(numpy.int64)))).unsqueeze(0)

    def _classes(self, path: str, numbers: Any) -> Any:
        """Numbers of a file as classes, (H, W) uint8."""
        least, most = int(numbers.min()), int(numbers.max())
        if least < 0 or most > IGNORED:
            odd = least if least < 0 else most
            raise ConfigError(
                f"dataset=mask_folder: {path} has the value {odd}; a mask has values from 0 to {IGNORED}",
                "number the classes from 0",
            )
        table = numpy.full(IGNORED + 1, -1)
        if self.values is None:
            table[:IGNORED] = range(IGNORED)
        if self.ignore is not None:
            table[self.ignore] = IGNORED
        if self.values is not None:
            table[list(self.values)] = range(len(self.values))
        classes = table[numbers]
        unknown = numbers[classes < 0]
        if unknown.size:
            raise ConfigError(
                f"dataset=mask_folder: {path} has the value {unknown[0]} in {unknown.size:,} of"
                f" {numbers.size:,} pixels; classes are {_listed(self.values)}, ignored is {self.ignore}",
                "add it to dataset.values, or ignore it with dataset.ignore",
            )
        return classes.astype(numpy.uint8)

    def _resized(self, classes: Any) -> Any:
        height, width = self.size
        if classes.shape == self.size:
            return classes
        image, nearest = Image.fromarray(classes), Image.Resampling.NEAREST
        if self.resize == "crop":
            return numpy.array(ImageOps.fit(image, (width, height), nearest))
        return numpy.array(image.resize((width, height), nearest))


def _broken(path: str, error: Exception) -> ConfigError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ConfigError(f"dataset=mask_folder: {path} is broken: {reason}", "repair or remove it")


def _shown(size: Sequence[int]) -> str:
    return "×".join(map(str, size))


def _listed(values: Sequence[int] | None) -> str:
    if values is None:
        return f"0 to {IGNORED - 1}"
    more = ", …" if len(values) > _SHOWN else ""
    return ", ".join(map(str, values[:_SHOWN])) + more


def write_mask(path: Path, numbers: Any) -> None:
    """Write (H, W) uint8 as a palette PNG: the index of a pixel is its number, its colour is for people."""
    image = Image.fromarray(numbers, "L")
    image.putpalette(_palette())
    image.save(path, "PNG")


def _palette() -> list[int]:
    """256 colours that tell neighbours apart, black first: the colour map of Pascal VOC, which takes the bits
    of red, green and blue in turn from those of the number (Everingham et al., 2010)."""
    return [
        sum(((number >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(8))
        for number in range(256)
        for channel in range(3)
    ]
