"""The autoencoder of fully connected layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from trainctl.registry import MODELS, Count


@MODELS.register("autoencoder")
class Autoencoder(nn.Module):
    """Fully connected layers that squeeze inputs through a few numbers, the code, and make them again.

    For the task autoencoder (Hinton and Salakhutdinov, Reducing the Dimensionality of Data with Neural
    Networks, 2006).

    Args:
        hidden: the sizes of the layers before the code, and in reverse after it.
        code: the size of the code.

    Shape: (N, *input_shape) → (N, *input_shape); ``encoder`` gives the code, (N, code), of flat inputs.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        hidden: list[Count] = [128],  # noqa: B006 - read only; a list is what a config gives
        code: Count = 16,
    ) -> None:
        super().__init__()
        self.shape = tuple(input_shape)
        sizes = [math.prod(input_shape), *hidden, code]
        self.encoder = _layers(sizes)
        self.decoder = _layers(sizes[::-1])

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.decoder(self.encoder(inputs.flatten(1)))
        return outputs.reshape(-1, *self.shape)


def _layers(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
