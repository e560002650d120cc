"""A plain convolutional network."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from trainctl.components.models._normalization import normalized
from trainctl.errors import ConfigError
from trainctl.registry import MODELS, Count, Probability

_POOLING = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}


@MODELS.register("cnn")
class CNN(nn.Module):
    """Convolution, normalization, ReLU and pooling for each width; a global average and one linear layer.

    Lin, Chen and Yan, Network In Network (2014), for the global average.

    Args:
        widths: channels of each convolution.
        kernel: height and width of the kernels, an odd number; images keep their size until they are pooled.
        normalization: normalize each convolution's output: over the batch, or over groups of channels.
        pooling: halve height and width after each convolution, while both are at least 2.
        dropout: the probability of zeroing a value before the linear layer.

    Shape: (N, channels, height, width) → (N, output_size).
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        widths: list[Count] = [32, 64, 128],  # noqa: B006 - read only; a list is what a config gives
        kernel: Count = 3,
        normalization: Literal["none", "batch", "group"] = "batch",
        pooling: Literal["none", "max", "average"] = "max",
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"model=cnn: takes images (channels, height, width), not shape {tuple(input_shape)}",
                "use model=mlp",
            )
        if kernel % 2 == 0:
            raise ConfigError(f"model.kernel={kernel}: must be odd", f"use {kernel + 1}")
        if not widths:
            raise ConfigError(
                "model.widths=[]: at least one convolution is needed", "e.g. model.widths=[32,64]"
            )
        layers: list[nn.Module] = []
        channels, height, width = input_shape
        for out_channels in widths:
            # A normalization has an offset of its own.
            layers.append(
                nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2, bias=normalization == "none")
            )
            layers += [*normalized(normalization, out_channels), nn.ReLU()]
            if pooling != "none" and min(height, width) >= 2:
                layers.append(_POOLING[pooling](2))
                height, width = height // 2, width // 2
            channels = out_channels
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, output_size))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.classifier(self.features(inputs))
        return outputs
