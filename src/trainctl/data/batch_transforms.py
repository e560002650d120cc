"""Augmentations of whole batches of images: the common ones of torchvision.transforms.v2."""

from __future__ import annotations

import copy
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le, Len
from torch import Tensor, nn

from trainctl.data.types import IGNORED
from trainctl.registry.constraints import Count, NonNegativeInt

_Chance = Annotated[float, Ge(0), Le(1)]


class RandomHorizontalFlip:
    """Mirror an image left to right with probability ``p``.

    Shape: (N, C, H, W) to the same, given one number in [0, 1) an image.
    """

    draws = 1
    dimension = -1

    def __init__(self, p: _Chance = 0.5) -> None:
        self.p = p

    def for_masks(self) -> RandomHorizontalFlip:
        """The transform of masks (N, 1, H, W)."""
        return self

    def __call__(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        # Whole images are copied, from the batch or its mirror image: on bytes four times as fast as `where`,
        # which looks at each pixel.
        number = torch.arange(len(inputs), device=inputs.device)
        both = torch.cat((inputs, inputs.flip(self.dimension)))
        return both.index_select(0, torch.where(numbers[0] < self.p, number + len(inputs), number))


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirror an image top to bottom with probability ``p``."""

    dimension = -2


class RandomCrop:
    """Cut a window of ``size`` out of an image, at a random place, after padding with ``fill``.

    Args:
        size: (height, width) of the window, or one number for both.
        padding: pixels on all sides, on [left and right, top and bottom], or on [left, top, right, bottom].
        pad_if_needed: pad an image that is smaller than the window.
        fill: the raw value of the padding.
        padding_mode: only ``constant`` here; torchvision does the others.

    Shape: (N, C, H, W) to (N, C, *size), given two numbers in [0, 1) an image.
    """

    draws = 2

    def __init__(
        self,
        size: Count | Annotated[list[Count], Len(1, 2)],
        padding: NonNegativeInt | Annotated[list[NonNegativeInt], Len(1, 4)] | None = None,
        pad_if_needed: bool = False,
        fill: int | float = 0,
        padding_mode: Literal["constant"] = "constant",
    ) -> None:
        sizes = [size] if isinstance(size, int) else size
        self.height, self.width = sizes[0], sizes[-1]
        sides = [padding or 0] if isinstance(padding, int | None) else padding
        if len(sides) == 3:
            raise ValueError("padding has 1, 2 or 4 numbers")
        self.left, self.top, self.right, self.bottom = sides * (4 // len(sides))
        self.pad_if_needed, self.fill = pad_if_needed, fill

    def for_masks(self) -> RandomCrop:
        """The transform of masks (N, 1, H, W), ignored where they are padded."""
        masked = copy.copy(self)
        masked.fill = IGNORED
        return masked

    def __call__(self, inputs: Tensor, numbers: Tensor) -> Tensor:
        height, width = inputs.shape[-2] + self.top + self.bottom, inputs.shape[-1] + self.left + self.right
        more = [max(0, self.width - width), max(0, self.height - height)] if self.pad_if_needed else [0, 0]
        sides = (self.left + more[0], self.right + more[0], self.top + more[1], self.bottom + more[1])
        height, width = height + 2 * more[1], width + 2 * more[0]
        if height < self.height or width < self.width:
            raise ValueError(f"a window of {(self.height, self.width)} is larger than {(height, width)}")
        padded = nn.functional.pad(inputs, sides, value=self.fill).reshape(-1)
        top = (numbers[0] * (height - self.height + 1)).long()
        left = (numbers[1] * (width - self.width + 1)).long()
        # Copied row by row of a window, each a piece of the flat batch: on bytes five times as fast as an
        # index of pixels.
        images, channels, rows = (
            torch.arange(length, device=inputs.device) for length in (*inputs.shape[:2], self.height)
        )
        first = (images * len(channels) * height + top) * width + left
        starts = first[:, None, None] + (channels[:, None] * height + rows) * width
        windows = padded.unfold(0, self.width, 1).index_select(0, starts.reshape(-1))
        return windows.view(*inputs.shape[:2], self.height, self.width)
