"""Optimizers of torch without the compiler behind them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainctl.components.optimizers._quick import PREPARE, quick_step, quick_zero_grad

_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")
_FUSED = ("SGD", "Adam", "AdamW")
_QUICK = {getattr(torch.optim, name): prepare for name, prepare in PREPARE.items()}
_stock: ContextVar[bool] = ContextVar("stock", default=False)


@contextmanager
def stock_classes(wanted: bool = True) -> Iterator[None]:
    """Inside, :func:`lean` gives the class as it is: what compiles imports the compiler anyway."""
    token = _stock.set(wanted)
    try:
        yield
    finally:
        _stock.reset(token)


def lean(optimizer: type[Optimizer]) -> type[Optimizer]:
    """A subclass of ``optimizer`` whose methods are the originals behind torch's compile-aware decorators.

    Those decorators import ``torch._dynamo`` (and sympy) on the first call: 2 to 7 seconds before the first
    step, for nothing when nothing is compiled. The step's arithmetic, hooks, schedulers and ``state_dict``
    are untouched; the class keeps its name. A method without a decorator stays as it is. Fused kernels are
    called without the Python around them where nothing is lost by it.
    """
    if _stock.get():
        return optimizer
    members = {name: getattr(optimizer, name) for name in _METHODS}
    originals = {
        name: inspect.unwrap(member) for name, member in members.items() if hasattr(member, "__wrapped__")
    }
    if "step" in originals:
        originals["step"] = torch.no_grad()(originals["step"])
        if optimizer in _QUICK:
            originals["step"] = quick_step(_QUICK[optimizer], originals["step"])
    if optimizer.zero_grad is Optimizer.zero_grad and "zero_grad" in originals:
        originals["zero_grad"] = quick_zero_grad(originals["zero_grad"])
    return type(optimizer.__name__, (optimizer,), {**originals, "__module__": optimizer.__module__})


def tensors_of(parameters: Iterable[Any]) -> list[Tensor]:
    """The tensors of a list of parameters or of parameter groups."""
    return [
        tensor for item in parameters for tensor in (item["params"] if isinstance(item, Mapping) else [item])
    ]


def has_fused(parameters: Iterable[Tensor]) -> bool:
    """True when torch has a fused kernel for every parameter: one call a step instead of one a tensor."""
    return all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda", "mps")
        for parameter in parameters
    )


def make(optimizer: type[Optimizer], parameters: Iterable[Any], **arguments: Any) -> Optimizer:
    """Construct ``optimizer``, lean; fused, where it and the device know how, unless ``fused`` is false."""
    parameters = list(parameters)
    if optimizer.__name__ in _FUSED:
        fused = arguments.pop("fused", None)
        arguments["fused"] = has_fused(tensors_of(parameters)) if fused is None else fused
    return lean(optimizer)(parameters, **arguments)
