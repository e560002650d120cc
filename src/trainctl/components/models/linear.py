"""One linear layer."""

from __future__ import annotations

import math

from torch import Tensor, nn

from trainctl.registry import MODELS


@MODELS.register("linear")
class Linear(nn.Module):
    """One linear layer on the flattened input: linear regression, or logistic regression with cross-entropy.

    Args:
        bias: learn an offset a output.

    Shape: (N, *input_shape) → (N, output_size).
    """

    def __init__(self, input_shape: tuple[int, ...], output_size: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(input_shape), output_size, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs.flatten(1))
        return outputs
