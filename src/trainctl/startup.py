"""Importing much, quickly and whole."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trainctl.interrupts import held_back


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside: what is imported stays, and looking through it again and again costs."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """For the import of torch: a seventh of its time is garbage collection, and a signal would break it.

    After the first time the collector forgets what is there, so that no full collection during training walks
    through the million objects of torch's modules; a second time it would forget what a run left behind.
    """
    first = "torch" not in sys.modules
    with held_back(), collector_paused():
        yield
    if first:
        gc.freeze()
