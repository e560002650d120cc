"""Streams whose reader may go away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO


class Unbreakable:
    """A stream whose writes never fail: once its reader is gone, nothing more is written.

    The run continues, and ``train.log`` has every line.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken = False

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if not self.broken:
            try:
                action()
            except (OSError, ValueError):
                self.broken = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
