"""Classes of torch that are used as they are: a table of names instead of a file each.

The table is free of torch; signatures are read from torch's own source, so listing and checking stay fast.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from trainctl.registry.signature import Parameter, Signature, from_source


@dataclass(frozen=True)
class TorchClass:
    """One class of torch.

    Attributes:
        module: where the class is defined, below ``torch``, dotted.
        name: its class name.
        summary: one line for ``ls``.
        note: passed on to ``make``.
    """

    module: str
    name: str
    summary: str
    note: str = ""


@dataclass(frozen=True)
class TorchClasses:
    """A table of classes with what they have in common.

    Attributes:
        members: by the name people type.
        hidden: arguments that a config may not set.
        types: types of arguments that are more precise than torch's annotations.
        refused: names of torch that cannot be used here, with the reason.
        make: makes the component from the class of torch and its entry.
    """

    members: Mapping[str, TorchClass]
    hidden: tuple[str, ...]
    types: Mapping[str, Any]
    make: Callable[[type, TorchClass], Callable[..., Any]]
    refused: Mapping[str, str] = field(default_factory=dict)

    def signature(self, name: str) -> Signature:
        """The arguments that a config may set, read from torch's source."""
        member = self.members[name]
        read = from_source(_source_of(member.module), member.name)
        parameters = [self._typed(item) for item in read.parameters if item.name not in self.hidden]
        return Signature(tuple(parameters), f"{member.summary}\n\nSee torch.{_public(member)}.")

    def _typed(self, parameter: Parameter) -> Parameter:
        annotation = self.types.get(parameter.name)
        return parameter if annotation is None else replace(parameter, annotation=annotation)

    def component(self, name: str) -> Callable[..., Any]:
        """The component itself; imports torch."""
        member = self.members[name]
        return self.make(getattr(importlib.import_module(f"torch.{member.module}"), member.name), member)


def _public(member: TorchClass) -> str:
    return f"{member.module.split('.')[0]}.{member.name}"


@cache
def _source_of(module: str) -> Path:
    # Finding a top-level package does not import it.
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*module.split(".")).with_suffix(".py")
