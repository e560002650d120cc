"""Drawn shapes with the class of each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from trainctl.data import Data, Split, Standardize
from trainctl.registry import DATASETS, Count, Seed

CLASSES = ("background", "circle", "square", "triangle")
_SLOTS = 3


@DATASETS.register("shapes")
def shapes(samples: Count = 1000, test_samples: Count = 200, size: Count = 32, data_seed: Seed = 0) -> Data:
    """Circles, squares and triangles of any colour on noise, drawn; the target is the class of each pixel.

    An image has one to three of them; a later one lies over those before. The colour of a shape says nothing
    of its class.

    Args:
        samples: number of images to train and validate on.
        test_samples: number of images to test on.
        size: height and width.
        data_seed: another seed draws other images.

    Shape: inputs (N, 3, size, size) uint8, targets (N, size, size) uint8: 0 is the background.
    """
    images, masks = drawn(samples + test_samples, size, data_seed)
    return Data(
        name="shapes",
        task="segmentation",
        train=Split(images[:samples], masks[:samples]),
        test=Split(images[samples:], masks[samples:]),
        input_shape=(3, size, size),
        output_size=len(CLASSES),
        transform=Standardize(scale=255.0, mean=0.5, std=0.25),
        classes=CLASSES,
        note="drawn",
        reading={"kind": "image", "resize": "stretch", "largest": 255},
    )


def drawn(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, size, size) and masks (N, size, size), both uint8."""
    generator = torch.Generator().manual_seed(seed)

    def draw(least: float, most: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (most - least) + least

    pixels = draw(0, 110, 3, size, size)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    for slot in range(_SLOTS):
        kind = torch.randint(0 if slot else 1, len(CLASSES), (count, 1, 1), generator=generator)
        radius = draw(0.12, 0.28, 1, 1) * size
        rows, columns = (
            torch.arange(size).reshape(1, *shape) - draw(0.2, 0.8, 1, 1) * size for shape in _AXES
        )
        inside = torch.stack([each.expand_as(masks) for each in _insides(rows, columns, radius)])
        drawn_here = inside.gather(0, kind.expand_as(masks)[None])[0]
        masks = torch.where(drawn_here, kind.to(torch.uint8), masks)
        colour = draw(60, 220, 3, 1, 1) + draw(-30, 30, 3, size, size)
        pixels = torch.where(drawn_here[:, None], colour, pixels)
    return pixels.to(torch.uint8), masks


_AXES = ((-1, 1), (1, -1))


def _insides(rows: Tensor, columns: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    """Which pixels are inside of each kind, given their distances from its centre; none of the background."""
    circle = rows**2 + columns**2 <= radius**2
    square = (rows.abs() <= 0.85 * radius) & (columns.abs() <= 0.85 * radius)
    triangle = (rows.abs() <= radius) & (2 * columns.abs() <= rows + radius)
    return torch.zeros_like(circle), circle, square, triangle
