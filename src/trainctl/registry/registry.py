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
from trainctl.registry.constraints import Count, Fraction, NonNegativeInt, Seed
from trainctl.registry.signature import REQUIRED, Parameter, Signature, from_object, from_source
from trainctl.registry.torch_classes import Family

_SOURCE = Path(__file__).parents[1]
_ROOMS = ("components", "lessons")
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
        package: the name of the folder whose files are the members, in ``components`` and in ``lessons``.
        supplied: arguments that trainctl fills in itself; a config may not set them.
        common: arguments that every member accepts although no constructor names them.
        family: the members are also the classes of torch in the package's ``_family.py``.
    """

    def __init__(
        self,
        group: str,
        noun: str,
        package: str,
        supplied: tuple[str, ...] = (),
        common: Mapping[str, Parameter] | None = None,
        family: bool = False,
    ) -> None:
        self.group = group
        self.noun = noun
        self.supplied = frozenset(supplied)
        self.common = dict(common or {})
        self._package = package
        self._folders = [folder for room in _ROOMS if (folder := _SOURCE / room / package).is_dir()]
        self._entries: dict[str, _Entry] = {}
        self._has_family = family

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

    @property
    def _family(self) -> Family:
        if not self._has_family:
            return _NO_FAMILY
        family: Family = importlib.import_module(f"trainctl.components.{self._package}._family").FAMILY
        return family

    def _own_module(self, name: str) -> str | None:
        if name in self._family.members:
            return f"torch.{self._family.members[name].module}"
        path = self._own_file(name)
        return (
            None if path is None else ".".join(("trainctl", *path.relative_to(_SOURCE).with_suffix("").parts))
        )

    def _own_names(self) -> list[str]:
        return sorted(path.stem for folder in self._folders for path in folder.glob("[!_]*.py"))

    def _own_file(self, name: str) -> Path | None:
        """The file of trainctl's own member ``name``, or None."""
        if name.startswith("_"):
            return None
        return next((path for folder in self._folders if (path := folder / f"{name}.py").is_file()), None)

    def names(self) -> list[str]:
        """All names that can be chosen, sorted; imports nothing."""
        return sorted({*self._own_names(), *self._entries, *self._family.members})

    def foreign(self) -> list[str]:
        """The names that plugins have registered, sorted."""
        return sorted(set(self._entries) - set(self._own_names()) - set(self._family.members))

    def load(self, name: str) -> Callable[..., Any]:
        """The class or function registered as ``name``; imports its file.

        Raises ConfigError naming the nearest member when there is none.
        """
        path = self._own_file(name)
        if name not in self._entries and path is not None:
            importlib.import_module(_module_of(path))
        if name not in self._entries:
            if name not in self._family.members:
                raise self.unknown(name)
            self._entries[name] = _Entry(self._family.component(name), None)
        return self._entries[name].component

    def signature(self, name: str) -> Signature:
        """The arguments a config may set, and the docstring; imports nothing that is not imported yet."""
        entry = self._entries.get(name)
        if name in self._family.members:
            signature = self._family.signature(name)
        elif entry is not None:
            signature = from_object(entry.component, entry.wraps)
        elif (path := self._own_file(name)) is not None:
            signature = from_source(path, name)
        else:
            raise self.unknown(name)
        own = [parameter for parameter in signature.parameters if parameter.name not in self.supplied]
        return Signature((*own, *self.common.values()), signature.doc)

    def asks_for(self, name: str) -> set[str]:
        """Which of the supplied arguments the constructor asks for; imports nothing of trainctl's own."""
        entry = self._entries.get(name)
        if entry is None and (path := self._own_file(name)) is not None:
            return set(self.supplied & set(from_source(path, name).names))
        return set(self.takes(name))

    def takes(self, name: str) -> frozenset[str]:
        """Which of the supplied arguments the constructor asks for."""
        self.load(name)
        entry = self._entries[name]
        return self.supplied & set(from_object(entry.component, entry.wraps).names)

    def summary(self, name: str) -> str:
        """One line on a member."""
        member = self._family.members.get(name)
        return member.summary if member else self.signature(name).summary

    @property
    def refused(self) -> Mapping[str, str]:
        """Names that cannot serve, with the reason."""
        return self._family.refused

    def unknown(self, name: str) -> ConfigError:
        """The error for a name that is not here, or that cannot serve."""
        if name in self._family.refused:
            return ConfigError(
                f"{self.group}={name}: {self._family.refused[name]}", f"there are: {', '.join(self.names())}"
            )
        close = nearest(name, self.names())
        remedy = f"did you mean {self.group}.name={close}? " if close else ""
        return ConfigError(
            f"{self.group}.name={name}: there is no such {self.noun}",
            f"{remedy}there are: {', '.join(self.names())}",
        )


_NO_FAMILY = Family({}, (), {}, lambda component, member: component)


def _module_of(path: Path) -> str:
    return ".".join(("trainctl", *path.relative_to(_SOURCE).with_suffix("").parts))


def _common(*parameters: Parameter) -> dict[str, Parameter]:
    return {parameter.name: parameter for parameter in parameters}


MODELS = Registry(
    "model",
    "model",
    "models",
    supplied=("input_shape", "output_size"),
    common=_common(Parameter("freeze", list[str], ())),
)
LOSSES = Registry("loss", "loss", "losses", supplied=("class_counts",), family=True)
OPTIMS = Registry(
    "optim",
    "optimizer",
    "optimizers",
    supplied=("parameters",),
    common=_common(Parameter("no_decay", list[str], ())),
    family=True,
)
SCHEDULERS = Registry(
    "scheduler",
    "scheduler",
    "schedulers",
    supplied=("optimizer", "total_steps", "steps_per_epoch", "lower_is_better"),
)
DATASETS = Registry(
    "dataset",
    "dataset",
    "datasets",
    supplied=("like",),
    common=_common(
        Parameter("augment", list[str | dict[str, Any]], ()),
        Parameter("limit", Count | None, None),
        Parameter("val", Fraction | NonNegativeInt, 0.1),
        Parameter("split_seed", Seed, 0),
    ),
)
LOADERS = Registry(
    "loader",
    "loader",
    "loaders",
    supplied=("split", "transform", "batch_size", "device", "seed", "augment"),
)
LOOPS = Registry("loop", "loop", "rungs", supplied=("config",))
METRICS = Registry("metric", "metric", "metrics", supplied=("output_size", "classes"))
TASKS = Registry("task", "task", "tasks")
TRACKERS = Registry("tracker", "tracker", "trackers", common=_common(Parameter("every", Count, 1)))

COMPONENTS: dict[str, Registry] = {
    registry.group: registry for registry in (MODELS, LOSSES, OPTIMS, SCHEDULERS, DATASETS, LOADERS, LOOPS)
}
"""The registries whose member a config group chooses, by group."""

__all__ = [
    "COMPONENTS",
    "DATASETS",
    "LOADERS",
    "LOOPS",
    "LOSSES",
    "METRICS",
    "MODELS",
    "OPTIMS",
    "REQUIRED",
    "SCHEDULERS",
    "TASKS",
    "TRACKERS",
    "Parameter",
    "Registry",
]
