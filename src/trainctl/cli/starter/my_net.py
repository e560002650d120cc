"""A model of one's own. Its name, my_net, is what `trainctl model=my_net` chooses."""

from __future__ import annotations

import math

from torch import Tensor, nn

from trainctl.registry import MODELS, Count, Probability


@MODELS.register("my_net")
class MyNet(nn.Module):
    """Two hidden layers of the same width, with a shortcut around the second.

    The arguments are what can be set as `model.width=128`, with these types. `input_shape` and `output_size`
    come from the data: one sample's shape, and how many classes or values there are to predict.

    Shape: (N, *input_shape) to (N, output_size).
    """

    def __init__(
        self, input_shape: tuple[int, ...], output_size: int, width: Count = 64, dropout: Probability = 0.1
    ) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(input_shape), width)
        self.second = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, output_size)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs.flatten(1)).relu()
        hidden = hidden + self.dropout(self.second(hidden).relu())
        outputs: Tensor = self.last(hidden)
        return outputs
