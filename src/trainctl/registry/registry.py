"""Registries: a name in the config to a class or function in Python.

A registry knows its own members by file name and imports one when it is chosen, so listing needs no torch.
Adding a component means adding a file that registers its own name:

    from trainctl.registry import MODELS

    @MODELS.register("my_net")
    class MyNet(nn.Module): ...

The same lines in a user's own file, listed under ``plugins:``, add a component without changing trainctl.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Len

from trainctl.errors import ConfigError, did_you_mean
from trainctl.registry import plugins
from trainctl.registry.constraints import (
    Count,
    Fraction,
    NonNegative,
    NonNegativeInt,
    Positive,
    Probability,
    Seed,
)
from trainctl.registry.signature import Parameter, Signature, from_object, from_source
from trainctl.registry.torch_classes import TorchClasses

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
        supplied: constructor arguments that trainctl passes itself; a config may not set them.
        common: arguments that a config may set for every member, handled outside the constructor.
        torch_classes: the members include the classes of torch in the package's ``_torch_classes.py``.
    """

    def __init__(
        self,
        group: str,
        noun: str,
        package: str,
        supplied: tuple[str, ...] = (),
        common: Mapping[str, Parameter] | None = None,
        torch_classes: bool = False,
    ) -> None:
        self.group = group
        self.noun = noun
        self.supplied = frozenset(supplied)
        self.common = dict(common or {})
        self._package = package
        self._folders = [folder for room in _ROOMS if (folder := _SOURCE / room / package).is_dir()]
        self._entries: dict[str, _Entry] = {}
        self._has_torch_classes = torch_classes

    def register(self, name: str, *, wraps: Callable[..., Any] | None = None) -> Callable[[C], C]:
        """Class or function decorator: make the object selectable as ``name``.

        ``wraps`` is the callable that receives the object's ``**kwargs``: its arguments can be set too.
        Raises ConfigError when the name is taken.
        """

        def decorate(component: C) -> C:
            known = self._entries.get(name)
            taken_by = known.component.__module__ if known else self._own_module(name)
            if taken_by is not None and taken_by != component.__module__:
                raise ConfigError(
                    f"{component.__module__} registers the {self.noun} {name!r}, a name taken by {taken_by}",
                    "register it under another name",
                )
            self._entries[name] = _Entry(component, wraps)
            return component

        return decorate

    @property
    def _torch_classes(self) -> TorchClasses:
        if not self._has_torch_classes:
            return _NO_TORCH_CLASSES
        module = importlib.import_module(f"trainctl.components.{self._package}._torch_classes")
        found: TorchClasses = module.TORCH_CLASSES
        return found

    def _own_module(self, name: str) -> str | None:
        """The dotted name of the module that defines trainctl's own member ``name``, or None."""
        if name in self._torch_classes.members:
            return f"torch.{self._torch_classes.members[name].module}"
        path = self.file(name)
        return None if path is None else _module_of(path)

    def _own_names(self) -> list[str]:
        return sorted(path.stem for folder in self._folders for path in folder.glob("[!_]*.py"))

    def file(self, name: str) -> Path | None:
        """The file of trainctl's own member ``name``, or None."""
        if name.startswith("_"):
            return None
        return next((path for folder in self._folders if (path := folder / f"{name}.py").is_file()), None)

    def names(self) -> list[str]:
        """All names that can be chosen, sorted. Imports nothing."""
        return sorted({*self._own_names(), *self._entries, *self._torch_classes.members})

    def foreign(self) -> list[str]:
        """The names registered by plugins, sorted."""
        return sorted(set(self._entries) - set(self._own_names()) - set(self._torch_classes.members))

    def is_plugin_function(self, name: str) -> bool:
        """Whether a plugin has registered ``name`` as a function, not a class."""
        return name in self.foreign() and inspect.isfunction(self._entries[name].component)

    def load(self, name: str) -> Callable[..., Any]:
        """The class or function registered as ``name``; imports its file.

        Raises ConfigError naming the closest member when there is none.
        """
        path = self.file(name)
        if name not in self._entries and path is not None:
            importlib.import_module(_module_of(path))
        if name not in self._entries:
            if name not in self._torch_classes.members:
                raise self.unknown(name)
            self._entries[name] = _Entry(self._torch_classes.component(name), None)
        return self._entries[name].component

    def signature(self, name: str) -> Signature:
        """The arguments that a config may set, and the docstring. Imports nothing."""
        entry = self._entries.get(name)
        if name in self._torch_classes.members:
            signature = self._torch_classes.signature(name)
        elif entry is not None:
            signature = from_object(entry.component, entry.wraps)
        elif (path := self.file(name)) is not None:
            signature = from_source(path, name)
        else:
            raise self.unknown(name)
        own = [parameter for parameter in signature.parameters if parameter.name not in self.supplied]
        return Signature((*own, *self.common.values()), signature.doc)

    def takes(self, name: str) -> frozenset[str]:
        """The supplied arguments that the constructor takes; imports none of trainctl's own modules."""
        entry = self._entries.get(name)
        if entry is None and (path := self.file(name)) is not None:
            return self.supplied & set(from_source(path, name).names)
        self.load(name)
        entry = self._entries[name]
        return self.supplied & set(from_object(entry.component, entry.wraps).names)

    def summary(self, name: str) -> str:
        """A member in one line."""
        member = self._torch_classes.members.get(name)
        return member.summary if member else self.signature(name).summary

    @property
    def refused(self) -> Mapping[str, str]:
        """Names of torch that cannot be used here, with the reason."""
        return self._torch_classes.refused

    def unknown(self, name: str) -> ConfigError:
        """The error for a name that does not exist, or that is refused."""
        if name in self._torch_classes.refused:
            return ConfigError(
                f"{self.group}={name}: {self._torch_classes.refused[name]}",
                f"there are: {', '.join(self.names())}",
            )
        word = f"{self.group}.name={name}"
        remedy = did_you_mean(name, self.names(), f"{self.group}.name=") + plugins.hint(name, word)
        return ConfigError(
            f"{word}: there is no such {self.noun}",
            f"{remedy}there are: {', '.join(self.names())}",
        )


_NO_TORCH_CLASSES = TorchClasses({}, (), {}, lambda component, member: component)


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
LOSSES = Registry("loss", "loss", "losses", supplied=("class_counts", "task"), torch_classes=True)
OPTIMIZERS = Registry(
    "optim",
    "optimizer",
    "optimizers",
    supplied=("parameters",),
    common=_common(
        Parameter("no_decay", list[str], ()),
        Parameter("layer_decay", Annotated[float, Gt(0), Le(1)] | None, None),
        Parameter("groups", dict[str, dict[str, Any]], {}),
    ),
    torch_classes=True,
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
        Parameter("as_task", str | Annotated[dict[str, dict[str, Any]], Len(1, 1)] | None, None),
        Parameter("augment", list[str | dict[str, Any]], ()),
        Parameter("limit", Count | None, None),
        Parameter("val", Fraction | NonNegativeInt, 0.1),
        Parameter("split_seed", Seed, 0),
        Parameter("folds", Annotated[int, Ge(2)] | None, None),
        Parameter("fold", NonNegativeInt | None, None),
        Parameter("label_noise", Probability, 0.0),
        Parameter("sampling", Literal["uniform", "balanced", "weighted"] | list[NonNegative], "uniform"),
        Parameter("mixup", Positive | None, None),
        Parameter("cutmix", Positive | None, None),
        Parameter("scale_target", Literal["auto"] | bool, "auto"),
    ),
)
LOADERS = Registry(
    "loader",
    "loader",
    "loaders",
    supplied=("split", "transform", "batch_size", "device", "seed", "augment", "share", "sampling", "mix"),
)
LOOPS = Registry("loop", "loop", "rungs", supplied=("config",))
METRICS = Registry("metric", "metric", "metrics", supplied=("output_size", "classes"))
TASKS = Registry("task", "task", "tasks")
TRACKERS = Registry("tracker", "tracker", "trackers", common=_common(Parameter("every", Count, 1)))

COMPONENTS: dict[str, Registry] = {
    registry.group: registry
    for registry in (MODELS, LOSSES, OPTIMIZERS, SCHEDULERS, DATASETS, LOADERS, LOOPS)
}
"""The registries of which a config chooses one member, by config group."""
