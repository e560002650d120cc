"""Importing much, quickly and whole."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainctl.training.interrupts import held_back


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

    After the first time the collector forgets what is there, so that no collection walks through the million
    objects of torch's modules; a second time it would forget what a run left behind.
    """
    first = "torch" not in sys.modules
    with held_back(), collector_paused():
        yield
        if first:
            gc.freeze()  # before the collector goes on: all of this is young to it, to be looked through


def load_libraries_meanwhile() -> threading.Thread | None:
    """Have the system load torch's libraries in another thread while this one goes on in Python.

    A quarter of torch's import is the dynamic linker at work on a few hundred megabytes, which needs no
    interpreter. Only the libraries without Python in them, in the order in which torch loads them; where they
    are not found, or cannot be loaded so, torch finds out by itself, and says why. Linux only.
    """
    if "torch" in sys.modules or sys.platform != "linux" or "TORCH_USE_RTLD_GLOBAL" in os.environ:
        return None
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "lib"
    libraries = [(folder / "libtorch_global_deps.so", os.RTLD_GLOBAL), (folder / "libtorch.so", 0)]
    if not all(path.is_file() for path, _ in libraries):
        return None
    # A function of a library is called without the interpreter's lock; ctypes.CDLL itself would keep it.
    load = getattr(ctypes.CDLL(None), "dlopen", None)
    if load is None:
        return None
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]

    def work() -> None:
        for path, scope in libraries:
            if not load(os.fsencode(path), os.RTLD_NOW | scope):
                return

    # No daemon: at its end the program waits for it. Half loaded, the libraries would crash there.
    thread = threading.Thread(target=work, name="libraries")
    thread.start()
    return thread
