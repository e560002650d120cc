"""How far the reading of a large file is; who shows it says so with :func:`shown_by`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Show = Callable[[str, float], object]
"""Called with what is being done and the done part, 0 to 1, a few times a second."""
_show: ContextVar[Show | None] = ContextVar("show_progress", default=None)
_PAUSE = 0.1


@contextlib.contextmanager
def shown_by(show: Show) -> Iterator[None]:
    """Have ``show`` told of all progress within."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


class Progress:
    """The progress of one thing that is done; ``total`` is the size of all of it."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, max(1, total)
        self._show, self._next = _show.get(), 0.0

    def update(self, done: int) -> None:
        if self._show is not None and time.monotonic() >= self._next:
            self._show(self._what, min(1.0, done / self._total))
            self._next = time.monotonic() + _PAUSE
