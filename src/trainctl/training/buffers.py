"""Copies of a model's buffers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.registry.protocols import named_modules


class Buffers:
    """The buffers of a model, such as running statistics: copied before a step, put back after a bad one."""

    def __init__(self, model: Any) -> None:
        places = [
            (module._buffers, name)
            for _, module in named_modules(model)
            if isinstance(module, nn.Module)
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        # Tensors of one type are copied together.
        self._places = sorted(places, key=lambda place: str(_at(place).dtype))

    def copied(self) -> list[Tensor]:
        """Copies of all of them, on their device."""
        if not self._places:
            return []
        own = [_at(place) for place in self._places]
        copies = [torch.empty_like(each) for each in own]
        for _, pairs in groupby(zip(copies, own, strict=True), key=lambda pair: pair[1].dtype):
            into, values = zip(*pairs, strict=True)
            torch._foreach_copy_(into, values)
        return copies

    def forget_constants(self, copies: Sequence[Tensor]) -> None:
        """Ignore from now on the buffers that are equal to ``copies``."""
        pairs = zip(self._places, copies, strict=True)
        self._places = [place for place, before in pairs if not torch.equal(_at(place), before)]

    def put_back(self, copies: Sequence[Tensor]) -> None:
        """Restore the values that :meth:`copied` gave."""
        with torch.no_grad():
            for place, before in zip(self._places, copies, strict=True):
                _at(place).copy_(before)


def _at(place: tuple[dict[str, Tensor | None], str]) -> Tensor:
    buffer = place[0][place[1]]
    assert buffer is not None
    return buffer
