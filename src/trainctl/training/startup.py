"""Fast imports that signals do not interrupt."""

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

# A user's own; the first is set where none of them is.
OPENMP_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "OMP_PROC_BIND")
PASSIVE = "OMP_WAIT_POLICY=passive"


def wait_passively() -> None:
    """Before torch is loaded: its OpenMP threads sleep while they wait for each other.

    By default they spin, and beside one other busy process two of them can take fifty times as long as one.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in OPENMP_SETTINGS[:3]):
        name, _, value = PASSIVE.partition("=")
        os.environ[name] = value


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection inside: modules stay, and going through them again and again takes time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """For the import of torch: without garbage collection, a seventh of its time, and without signals.

    After the first time the collector ignores all present objects, so that no collection goes through the
    million of torch's modules. Not after later ones: it would never free the leftovers of a run.
    """
    first = "torch" not in sys.modules
    with held_back(), collector_paused():
        yield
        if first:
            gc.freeze()  # before the collector is on again


def load_libraries_meanwhile() -> threading.Thread | None:
    """Load torch's libraries in another thread while this one goes on in Python. Linux only.

    A quarter of torch's import is the dynamic linker's work, which needs no interpreter. These are the
    libraries without Python in them, in torch's order; one that cannot be loaded is left to torch's import.
    """
    if "torch" in sys.modules or sys.platform != "linux" or "TORCH_USE_RTLD_GLOBAL" in os.environ:
        return None
    spec = importlib.util.find_spec("torch")
    # A function of a library is called without the interpreter's lock; ctypes.CDLL itself would keep it.
    load = getattr(ctypes.CDLL(None), "dlopen", None)
    if spec is None or spec.origin is None or load is None:
        return None
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    folder = os.fsencode(Path(spec.origin).parent / "lib")

    def work() -> None:
        if load(folder + b"/libtorch_global_deps.so", os.RTLD_NOW | os.RTLD_GLOBAL):
            load(folder + b"/libtorch.so", os.RTLD_NOW)

    # No daemon: the program waits for it at its end, where half loaded libraries would crash.
    thread = threading.Thread(target=work, name="libraries")
    thread.start()
    return thread
