"""Samples of a batch mixed with each other: ``dataset.mixup`` and ``dataset.cutmix``.

As torchvision.transforms.v2 does it: a sample is mixed with the one before it in the batch, the first with
the last, all in one proportion. (seed, epoch, place of the batch) decide it, for the batch of all processes
together: resumed runs and any number of devices see the same.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.random import RandomState
from torch import Tensor
from torch.nn.functional import one_hot

from trainctl.data.inputs import parts_of
from trainctl.data.sampler import derived_seed
from trainctl.errors import ConfigError


class Mix:
    """Mixes each batch, by either way if both are chosen.

    Mixup adds two samples, by shares that are drawn from Beta(alpha, alpha) (Zhang et al., mixup: Beyond
    Empirical Risk Minimization, 2018); CutMix puts a rectangle of one image into the other (Yun et al.,
    CutMix, 2019).

    Args:
        mixup, cutmix: alpha, or None.
        classes: how many there are; None for values.
    """

    def __init__(self, mixup: float | None, cutmix: float | None, classes: int | None, seed: int) -> None:
        self.ways = [(name, alpha) for name, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha]
        self.classes, self.seed = classes, seed

    def __call__(
        self, inputs: Any, targets: Tensor, epoch: int, position: int, *, neighbour: bool
    ) -> tuple[Any, Tensor]:
        """The mixed batch; class numbers (N,) become shares of the classes (N, classes).

        Args:
            inputs: (N, …), after the transform.
            position: of the batch in the epoch.
            neighbour: whether the first sample is only there for the next, as of one of several processes.

        Raises ConfigError for inputs that cannot be mixed.
        """
        for part in parts_of(inputs):
            if not part.is_floating_point():
                raise ConfigError(f"dataset.mixup, dataset.cutmix: the model gets inputs of {part.dtype}")
        draws = RandomState(derived_seed("mix", self.seed, epoch, position) % 2**32)
        way, alpha = self.ways[draws.randint(len(self.ways))]
        share = float(draws.beta(alpha, alpha))
        if self.classes is not None:
            targets = one_hot(targets, self.classes).to(torch.float32)
        if way == "cutmix":
            inputs, share = _cut(inputs, share, draws, neighbour)
        else:
            inputs = _added(inputs, share, neighbour)
        return inputs, _added(targets, share, neighbour)


def _before(batch: Any, neighbour: bool) -> tuple[Any, Any]:
    """The samples of a batch, and the one before each."""
    return (batch[1:], batch[:-1]) if neighbour else (batch, torch.roll(batch, 1, 0))


def _added(batch: Any, share: float, neighbour: bool) -> Any:
    own, other = _before(batch, neighbour)
    return torch.add(torch.mul(own, share), torch.mul(other, 1.0 - share))


def _cut(images: Any, share: float, draws: RandomState, neighbour: bool) -> tuple[Tensor, float]:
    """Images with a rectangle of others in them, and the share of their area that stays."""
    own, other = _before(images, neighbour)
    height, width = images.shape[-2:]
    row, column = draws.randint(height), draws.randint(width)
    half = 0.5 * (1.0 - share) ** 0.5
    top, bottom = max(row - int(half * height), 0), min(row + int(half * height), height)
    left, right = max(column - int(half * width), 0), min(column + int(half * width), width)
    mixed = own.clone()
    mixed[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)
