"""The multilayer perceptron, from scratch."""

from __future__ import annotations

import math

from torch import Tensor

from trainctl.lessons import scratch
from trainctl.registry import MODELS, Count, Probability


@MODELS.register("scratch_mlp")
class ScratchMLP(scratch.Module):
    """The mlp in plain Python: linear, ReLU, dropout for each hidden size, then linear.

    See trainctl.lessons.scratch.

    Args:
        hidden: the hidden layers' sizes; [] leaves one linear layer.
        dropout: the probability of zeroing a hidden value while training.

    Shape: (N, *input_shape), flattened → (N, output_size).
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        hidden: list[Count] = [128, 64],  # noqa: B006 - read only; a list is what a config gives
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__()
        layers: list[scratch.Module] = []
        size = math.prod(input_shape)
        for width in hidden:
            layers += [scratch.Linear(size, width), scratch.ReLU()]
            if dropout:
                layers.append(scratch.Dropout(dropout))
            size = width
        layers.append(scratch.Linear(size, output_size))
        self.flatten = scratch.Flatten()
        self.layers = scratch.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(self.flatten(inputs))
        return outputs
