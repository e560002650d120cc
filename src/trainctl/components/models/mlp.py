"""The multilayer perceptron."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from trainctl.registry import MODELS, Count, Probability

_ACTIVATIONS = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}
_NORMALIZATIONS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


@MODELS.register("mlp")
class MLP(nn.Module):
    """Fully connected layers: linear, normalization, activation, dropout for each hidden size, then linear.

    Args:
        hidden: the hidden layers' sizes; [] leaves one linear layer.
        activation: the function after each hidden layer.
        dropout: the probability of zeroing a hidden value while training.
        normalization: normalize each hidden layer's values before the activation.

    Shape: (N, *input_shape), flattened → (N, output_size).
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        hidden: list[Count] = [128, 64],  # noqa: B006 - read only; a list is what a config gives
        activation: Literal["relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu"] = "relu",
        dropout: Probability = 0.0,
        normalization: Literal["none", "batch", "layer"] = "none",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = math.prod(input_shape)
        for width in hidden:
            layers.append(nn.Linear(size, width))
            if normalization != "none":
                layers.append(_NORMALIZATIONS[normalization](width))
            layers.append(_ACTIVATIONS[activation]())
            if dropout:
                layers.append(nn.Dropout(dropout))
            size = width
        layers.append(nn.Linear(size, output_size))
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs.flatten(1))
        return outputs
