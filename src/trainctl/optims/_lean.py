"""Optimizers of torch without the compiler behind them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_PLAIN = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def lean(optimizer: type[Optimizer]) -> type[Optimizer]:
    """A subclass of ``optimizer`` whose methods are the originals behind torch's compile-aware decorators.

    Those decorators import ``torch._dynamo`` (and sympy) on the first call: 2 to 7 seconds before the first
    step, for nothing when nothing is compiled. The step's arithmetic, hooks, schedulers and ``state_dict``
    are untouched; the class keeps its name. Where a decorator has changed shape and hides no original, the
    class is returned as it is.
    """
    originals = {name: inspect.unwrap(getattr(optimizer, name)) for name in (*_PLAIN, "step")}
    if any(
        original is getattr(optimizer, name) for name, original in originals.items() if name != "zero_grad"
    ):
        return optimizer
    originals["step"] = torch.no_grad()(originals["step"])
    return type(optimizer.__name__, (optimizer,), {**originals, "__module__": optimizer.__module__})


def has_fused(parameters: Iterable[Tensor]) -> bool:
    """True when torch has a fused kernel for every parameter: one call a step instead of one a tensor."""
    return all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda", "mps")
        for parameter in parameters
    )


def make(optimizer: type[Optimizer], parameters: Iterable[Tensor], **arguments: Any) -> Optimizer:
    """Construct ``optimizer``, lean, and fused unless ``fused`` says otherwise."""
    parameters = list(parameters)
    fused = arguments.pop("fused", None)
    use_fused = has_fused(parameters) if fused is None else fused
    return lean(optimizer)(parameters, **arguments, fused=use_fused)  # type: ignore[call-arg]
