"""Registries: a name in the config to a class or function in Python.

A registry knows its own members by file name and imports one when it is chosen, so listing needs no torch.
Adding a component means adding a file that registers its own name:

    from trainctl.registry import MODELS

    @MODELS.register("my_net")
    class MyNet(nn.Module): ...

The same lines in a file of one's own, named under ``plugins:``, add a component from outside.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trainctl.errors import ConfigError, nearest
from trainctl.ranges import Fraction, NonNegativeInt
from trainctl.signature import REQUIRED, Parameter, Signature, from_object, from_source

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Entry:
    component: Callable[..., Any]
    wraps: Callable[..., Any] | None


class Registry:
    """The components of one kind.

    Args:
        group: the config group and the key people type (``optim``).
        noun: what a member is called in messages (``optimizer``).
        package: the sub-package of trainctl whose files are the members.
        supplied: arguments that trainctl fills in itself; a config may not set them.
        common: arguments that every member accepts although no constructor names them.
    """

    def __init__(
        self,
        group: str,
        noun: str,
        package: str,
        supplied: tuple[str, ...] = (),
        common: Mapping[str, Parameter] | None = None,
    ) -> None:
        self.group = group
        self.noun = noun
        self.supplied = frozenset(supplied)
        self.common = dict(common or {})
        self._package = f"trainctl.{package}"
        self._folder = Path(__file__).parent / package
        self._entries: dict[str, _Entry] = {}

    def register(self, name: str, *, wraps: Callable[..., Any] | None = None) -> Callable[[C], C]:
        """Class or function decorator: make the object selectable as ``name``.

        ``wraps`` names the callable that receives the object's ``**kwargs``, whose signature then counts.
        Raises ConfigError when another object already has the name.
        """

        def decorate(component: C) -> C:
            known = self._entries.get(name)
            taken_by = known.component.__module__ if known else self._own_module(name)
            if taken_by is not None and taken_by != component.__module__:
                raise ConfigError(
                    f"{component.__module__} registers the {self.noun} {name!r}, which {taken_by} defines",
                    "register it under another name",
                )
            self._entries[name] = _Entry(component, wraps)
            return component

        return decorate

    def _own_module(self, name: str) -> str | None:
        return f"{self._package}.{name}" if name in self._own_names() else None

    def _own_names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("[!_]*.py"))

    def names(self) -> list[str]:
        """All names that can be chosen, sorted; imports nothing."""
        return sorted({*self._own_names(), *self._entries})

    def load(self, name: str) -> Callable[..., Any]:
        """The class or function registered as ``name``; imports its file.

        Raises ConfigError naming the nearest member when there is none.
        """
        if name not in self._entries and name in self._own_names():
            importlib.import_module(f"{self._package}.{name}")
        if name not in self._entries:
            raise self.unknown(name)
        return self._entries[name].component

    def signature(self, name: str) -> Signature:
        """The arguments a config may set, and the docstring; imports nothing that is not imported yet."""
        entry = self._entries.get(name)
        if entry is not None:
            signature = from_object(entry.component, entry.wraps)
        elif name in self._own_names():
            signature = from_source(self._folder / f"{name}.py", name)
        else:
            raise self.unknown(name)
        own = [parameter for parameter in signature.parameters if parameter.name not in self.supplied]
        return Signature((*own, *self.common.values()), signature.doc)

    def takes(self, name: str) -> frozenset[str]:
        """Which of the supplied arguments the constructor asks for."""
        self.load(name)
        entry = self._entries[name]
        return self.supplied & set(from_object(entry.component, entry.wraps).names)

    def unknown(self, name: str) -> ConfigError:
        """The error for a name that is not here."""
        close = nearest(name, self.names())
        remedy = f"did you mean {self.group}.name={close}? " if close else ""
        return ConfigError(
            f"{self.group}.name={name}: there is no such {self.noun}",
            f"{remedy}there are: {', '.join(self.names())}",
        )


def _common(*parameters: Parameter) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in parameters}


MODELS = Registry("model", "model", "models", supplied=("input_shape", "output_size"))
LOSSES = Registry("loss", "loss", "losses")
OPTIMS = Registry("optim", "optimizer", "optims", supplied=("parameters",))
SCHEDULERS = Registry("scheduler", "scheduler", "schedulers", supplied=("optimizer", "total_steps"))
DATASETS = Registry(
    "dataset",
    "dataset",
    "datasets",
    common=_common(
        Parameter("val", Fraction | NonNegativeInt, 0.1),
        Parameter("split_seed", NonNegativeInt, 0),
    ),
)
METRICS = Registry("metric", "metric", "metrics")

COMPONENTS: dict[str, Registry] = {
    registry.group: registry for registry in (MODELS, LOSSES, OPTIMS, SCHEDULERS, DATASETS)
}
"""The registries whose member a config group chooses, by group."""

__all__ = [
    "COMPONENTS",
    "DATASETS",
    "LOSSES",
    "METRICS",
    "MODELS",
    "OPTIMS",
    "REQUIRED",
    "SCHEDULERS",
    "Parameter",
    "Registry",
]
