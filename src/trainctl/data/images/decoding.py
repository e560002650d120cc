"""Image files to tensors of one shape."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, TypeVar

import numpy
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from trainctl.errors import ConfigError

# Only these decoders: behind a suffix there could be a format whose decoder starts another program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_THREADS = 16
_WINDOW = 128
_REMEDY = "repair or remove it; dataset.bad_files=skip leaves broken files out"
_Made = TypeVar("_Made")


def in_threads(make: Callable[[str], _Made], paths: Sequence[str]) -> Iterator[_Made]:
    """``make`` of each path, in order. Threads are enough: Pillow decodes without holding Python's lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(_THREADS, cores))
    try:
        for start in range(0, len(paths), _WINDOW):
            yield from pool.map(make, paths[start : start + _WINDOW])
    finally:
        pool.shutdown(cancel_futures=True)


def opened(path: str) -> BinaryIO:
    """The file. Raises OSError, also for a pipe or a device, which one could wait for endlessly."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def reason_of(error: BaseException | None) -> str:
    """Why a file cannot be decoded, in one line."""
    if isinstance(error, UnidentifiedImageError):  # it names Python's object, not the user's file
        return "no image of a known format"
    return str(error).partition("\n")[0] or type(error).__name__


def upright_size(path: str) -> tuple[int, int]:
    """Height and width of the image that a :class:`Decoder` gets. Raises what Pillow raises."""
    with opened(path) as file, Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS else (height, width)


@dataclass(frozen=True)
class Decoder:
    """Reads an image file: upright, on white where it is transparent, in colour or grey, resized.

    Args:
        size: height and width.
        channels: 3 for colour, 1 for grey.
        resize: ``crop`` keeps the proportions and cuts the middle out, ``stretch`` does not.
        dataset, remedy: for messages.

    Calling it with a path gives (channels, *size) uint8; raises ConfigError naming a file that is broken.
    """

    size: tuple[int, int]
    channels: Literal[1, 3]
    resize: Literal["crop", "stretch"]
    # Not shown: what a decoder shows of itself tells how a cache was decoded.
    dataset: str = field(default="image_folder", repr=False)
    remedy: str = field(default=_REMEDY, repr=False)

    def __call__(self, path: str) -> Tensor:
        try:
            with opened(path) as file:
                return self.read(file)
        except Exception as error:  # decoders raise errors of many kinds
            message = f"dataset={self.dataset}: {path} is broken: {reason_of(error)}"
            raise ConfigError(message, self.remedy) from error

    def read(self, file: BinaryIO) -> Tensor:
        """The image in an open file. Raises what Pillow raises for a broken one."""
        with Image.open(file, formats=FORMATS) as image:
            return self.picture(image)

    def picture(self, image: Any) -> Tensor:
        """The pixels of Pillow's ``image``, which a JPEG that is not loaded yet does not survive."""
        height, width = self.size
        # A large JPEG is decoded at a half, quarter or eighth, down to twice the size: several times faster.
        # Both sides get the larger one, because the image may still be rotated.
        image.draft(None, (2 * max(self.size), 2 * max(self.size)))
        image = self._coloured(ImageOps.exif_transpose(image))
        if self.resize == "crop":
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        else:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(numpy.array(image)).view(height, width, self.channels)
        return pixels.permute(2, 0, 1).contiguous()

    def _coloured(self, image: Any) -> Any:
        mode = "RGB" if self.channels == 3 else "L"
        if image.mode.startswith("I"):
            # 16 bits a pixel, which Pillow would clip at 255.
            values = numpy.asarray(image).astype(numpy.float64) / 257
            image = Image.fromarray(values.round().clip(0, 255).astype(numpy.uint8))
        elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        return image.convert(mode)
