"""Normalizations of a convolution's output, by name."""

from __future__ import annotations

from torch import nn

_MOST_GROUPS = 8


def normalized(kind: str, channels: int) -> list[nn.Module]:
    """The layer, none for ``none``. Over groups: at most 8, of equal size (Wu and He, Group Normalization,
    2018)."""
    if kind == "batch":
        return [nn.BatchNorm2d(channels)]
    groups = max(number for number in range(1, _MOST_GROUPS + 1) if channels % number == 0)
    return [nn.GroupNorm(groups, channels)] if kind == "group" else []
