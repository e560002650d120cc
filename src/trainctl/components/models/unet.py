"""The U-Net."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainctl.components.models._normalization import normalized
from trainctl.errors import ConfigError
from trainctl.registry import MODELS, Count


@MODELS.register("unet")
class UNet(nn.Module):
    """An image made smaller step by step, then larger again, each time beside what was there on the way down.

    Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation (2015),
    with padded convolutions and normalization. A side that is odd is rounded up on the way down, and cut to
    its length on the way up: images may have any size.

    Args:
        widths: channels of each level, from the full size on; each level halves the size.
        normalization: of each convolution's output: over groups of channels, or over the batch.

    Shape: (N, channels, height, width) → (N, output_size, height, width).
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        widths: list[Count] = [16, 32, 64, 128],  # noqa: B006 - read only; a list is what a config gives
        normalization: Literal["none", "batch", "group"] = "group",
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"model=unet: takes images (channels, height, width), not shape {tuple(input_shape)}",
                "use model=mlp",
            )
        if not widths:
            raise ConfigError("model.widths=[]: at least one level is needed", "e.g. model.widths=[16,32]")
        channels = input_shape[0]
        self.down = nn.ModuleList()
        for width in widths:
            self.down.append(_convolutions(channels, width, normalization))
            channels = width
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.enlarge, self.up = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.enlarge.append(nn.ConvTranspose2d(channels, width, kernel_size=2, stride=2))
            self.up.append(_convolutions(2 * width, width, normalization))
            channels = width
        self.classifier = nn.Conv2d(channels, output_size, kernel_size=1)

    def forward(self, inputs: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for convolutions in self.down:
            levels.append(convolutions(self.pool(levels[-1]) if levels else inputs))
        features = levels.pop()
        for enlarge, convolutions in zip(self.enlarge, self.up, strict=True):
            level = levels.pop()
            enlarged = enlarge(features)[..., : level.shape[-2], : level.shape[-1]]
            features = convolutions(torch.cat((level, enlarged), 1))
        outputs: Tensor = self.classifier(features)
        return outputs


def _convolutions(channels: int, width: int, normalization: str) -> nn.Sequential:
    """Two convolutions, each with normalization and ReLU."""
    layers: list[nn.Module] = []
    for taken in (channels, width):
        # A normalization has an offset of its own.
        layers.append(nn.Conv2d(taken, width, kernel_size=3, padding=1, bias=normalization == "none"))
        layers += [*normalized(normalization, width), nn.ReLU()]
    return nn.Sequential(*layers)
