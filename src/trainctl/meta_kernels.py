"""torch without its meta kernels, until they are needed: a seventh of ``import torch``.

They compute the shapes of tensors without values (``device="meta"``), which compiling and exporting a model
use, and some code of other packages; nothing in trainctl does. So the program, whose process is its own,
begins without them (:func:`later`), and has them from the moment on that anything could miss them: before
torch's compiler, its decompositions or a package that builds on torch is imported, when something of them is
read, and before a plugin is loaded (:func:`now`). Only with versions of torch that this was tried with; of
another all is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_TRIED = ("2.15.",)
_KERNELS = "torch._meta_registrations"
_NEEDING = ("torch._decomp", "torch._dynamo", "torch._refs", "torchvision", "lightning")


def later() -> None:
    """Have ``import torch`` leave the meta kernels out. For the start of a program."""
    if "torch" not in sys.modules and not any(isinstance(it, _Finder) for it in sys.meta_path) and _tried():
        sys.meta_path.insert(0, _Finder())


def now() -> None:
    """Import what :func:`later` has left out. For code that may use any part of torch."""
    sys.meta_path[:] = [it for it in sys.meta_path if not isinstance(it, _Finder)]
    if isinstance(sys.modules.get(_KERNELS), _Later):
        del sys.modules[_KERNELS]
        importlib.import_module(_KERNELS)


def _tried() -> bool:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return False
    return any(f"__version__ = '{version}" in text for version in _TRIED)


class _Finder(MetaPathFinder, Loader):
    """Finds an empty module where torch looks for its meta kernels, and brings them back when needed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == _KERNELS:
            return ModuleSpec(fullname, self)
        if fullname in _NEEDING:
            now()
            if fullname in sys.modules:  # the kernels have imported it, and Python would run it again
                return _Loaded(sys.modules[fullname]).spec
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        # The kernels import this, too, and without it torch can make no random generator.
        importlib.import_module("torch._prims")


class _Loaded(Loader):
    """Hands a module over that was imported while Python looked for it."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.own = module, module.__spec__
        self.spec = ModuleSpec(module.__name__, self)
        module.__spec__ = None  # Python would take that for what was found, and follow it once more

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own


class _Later(ModuleType):
    """In the place of the meta kernels."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for its file
            raise AttributeError(name)
        now()
        return getattr(sys.modules[_KERNELS], name)
