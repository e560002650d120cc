"""One linear layer, from scratch."""

from __future__ import annotations

import math

from torch import Tensor

from trainctl.lessons import scratch
from trainctl.registry import MODELS


@MODELS.register("scratch_linear")
class ScratchLinear(scratch.Module):
    """The linear model in plain Python: one affine map of the flattened input. See trainctl.lessons.scratch.

    Args:
        bias: learn an offset a output.

    Shape: (N, *input_shape) → (N, output_size).
    """

    def __init__(self, input_shape: tuple[int, ...], output_size: int, bias: bool = True) -> None:
        super().__init__()
        self.flatten = scratch.Flatten()
        self.linear = scratch.Linear(math.prod(input_shape), output_size, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(self.flatten(inputs))
        return outputs
