"""LeNet-5."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError
from trainctl.registry import MODELS, Probability


@MODELS.register("lenet")
class LeNet(nn.Module):
    """LeNet-5 for images of any number of channels: two convolutions with pooling, three linear layers.

    LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition (1998), with
    ReLU and max pooling as it is built today.

    Args:
        dropout: the probability of zeroing a value before each hidden linear layer's output is used.

    Shape: (N, channels, height, width), both at least 12 → (N, output_size).
    """

    def __init__(self, input_shape: tuple[int, ...], output_size: int, dropout: Probability = 0.0) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 12:
            raise ConfigError(
                f"model=lenet: takes images of at least 12×12, not inputs of shape {tuple(input_shape)}",
                "use model=cnn for smaller images, model=mlp for tables",
            )
        self.features = nn.Sequential(
            nn.Conv2d(input_shape[0], 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        with torch.no_grad():
            size = self.features(torch.zeros(1, *input_shape)).shape[1]
        self.classifier = nn.Sequential(
            nn.Linear(size, 120),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(84, output_size),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.classifier(self.features(inputs))
        return outputs
