"""What the standard loop needs of a model, a criterion, an optimizer and a loader.

torch's classes meet these protocols, and so do the plain Python ones of ``trainctl.lessons.scratch``: the
loop runs either, in any mix. Whatever else meets them can be trained, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor


class _Module(Protocol):
    """A function of tensors that may hold tensors and other modules."""

    def __call__(self, *inputs: Any) -> Any: ...
    def named_children(self) -> Iterator[tuple[str, Any]]: ...
    def parameters(self) -> Iterator[Any]: ...
    def to(self, device: torch.device) -> Any: ...
    def register_forward_hook(self, hook: Callable[[Any, Any, Any], Any]) -> Any:
        """Have ``hook(module, inputs, outputs)`` called after each call; the result can ``remove()`` it."""


@runtime_checkable
class Model(_Module, Protocol):
    """Inputs (N, …) to outputs (N, …), with parameters to train and a mode.

    ``training`` is True after ``train()``, which layers such as dropout look at.
    """

    training: bool

    def named_parameters(self) -> Iterator[tuple[str, Any]]: ...
    def train(self, mode: bool = True) -> Any: ...
    def eval(self) -> Any: ...
    def state_dict(self) -> Mapping[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any: ...


@runtime_checkable
class Criterion(_Module, Protocol):
    """Outputs and targets to the mean loss of a batch, a scalar."""


@runtime_checkable
class Optimizer(Protocol):
    """Updates parameters from their gradients.

    ``param_groups`` is a list of dictionaries, each with ``params`` and the settings that hold for them;
    ``lr`` is read there for the display and the log.
    """

    param_groups: list[dict[str, Any]]

    def zero_grad(self) -> None: ...
    def step(self) -> Any: ...
    def register_step_pre_hook(self, hook: Callable[[Any, Any, Any], Any]) -> Any:
        """Have ``hook(optimizer, args, kwargs)`` called before each step: gradients are clipped there."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Cursor(NamedTuple):
    """Where a batch begins. With the seed it decides every batch that is still to come.

    Attributes:
        epoch: epochs whose batches have all been used.
        position: samples of the running epoch that have been used.
    """

    epoch: int = 0
    position: int = 0


class Batch(NamedTuple):
    """The samples of one step.

    Attributes:
        inputs: (N, …), on the training device.
        targets: (N, …), on the training device.
        count: samples of the step on all devices together; N on one device.
        cursor: where the next batch begins.
    """

    inputs: Tensor
    targets: Tensor
    count: int  # type: ignore[assignment]  # a tuple's own method is of no use here
    cursor: Cursor


START = Cursor()
"""The beginning of the first epoch."""


@runtime_checkable
class Loader(Protocol):
    """Batches on the training device. With a cursor every batch can be had again."""

    @property
    def samples(self) -> int:
        """Samples an epoch."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def batches(self, cursor: Cursor = START) -> Iterator[Batch]:
        """The batches of the cursor's epoch from its position on; the last cursor is the next epoch's."""


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint holds. Reading the state has no side effects; loading it restores the object."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...


def missing(protocol: type, candidate: object) -> list[str]:
    """The names that ``protocol`` needs and ``candidate`` has not, sorted."""
    names = {
        name
        for each in protocol.__mro__
        if getattr(each, "_is_protocol", False) and each is not Protocol
        for name in (*vars(each), *vars(each).get("__annotations__", {}))
        if not name.startswith("_") or name in ("__call__", "__len__")
    }
    return sorted(name for name in names if not hasattr(candidate, name))


def named_modules(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``module`` and all modules inside it with their dotted names, outermost first; its own name is ""."""
    yield prefix, module
    for name, child in module.named_children():
        yield from named_modules(child, f"{prefix}.{name}" if prefix else name)
