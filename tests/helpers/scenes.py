"""Folders of drawn images with their masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from trainctl.components.datasets.shapes import drawn
from trainctl.data.images.masks import write_mask


def write_scenes(
    root: Path, count: int = 40, size: int = 12, seed: int = 0, border: int = 0, stem: str = "{:03d}"
) -> Path:
    """``root`` with images/ and masks/; ``border`` pixels of each mask are ignored, of the first one all."""
    images, masks = drawn(count, size, seed)
    if border:
        kept = masks[:, border:-border, border:-border].clone()
        masks.fill_(255)
        masks[1:, border:-border, border:-border] = kept[1:]
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "images" / f"{stem.format(number)}.png")
        write_mask(root / "masks" / f"{stem.format(number)}.png", mask.numpy())
    return root


def numbers(path: Path) -> Any:
    """The values in a mask file, (height, width) uint8."""
    with Image.open(path) as image:
        assert image.mode in ("P", "L")
        return torch.from_numpy(numpy.array(image))
