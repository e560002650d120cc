"""Batches to the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Copier:
    """Copies batches to a device; to a GPU while the step before is still being computed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, raw: Tensor) -> Tensor:
        if self._stream is None:
            return raw.to(self.device)
        with torch.cuda.stream(self._stream):
            copied = raw.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._stream)
        copied.record_stream(computing)  # its memory is free when the step has read it, not before
        return copied
