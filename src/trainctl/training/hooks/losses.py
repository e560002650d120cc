"""Losses that are read some time after their step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def kept(loss: Tensor) -> Tensor | float:
    """What to keep of a loss: the tensor where reading it would wait for a device, else its value.

    On the CPU there is nothing to wait for, and a small tensor that is kept there keeps the C library from
    using the memory again that large ones around it had: the heap would grow by about a batch a step.
    """
    return loss.item() if loss.is_cpu else loss


def fetched(losses: Sequence[Tensor | float]) -> list[float]:
    """The values of what was kept, of a device's in one transfer."""
    tensors = [loss for loss in losses if isinstance(loss, Tensor)]
    values = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(values) if isinstance(loss, Tensor) else loss for loss in losses]
