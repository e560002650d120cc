"""Activations that are computed again in the backward pass instead of being kept: less memory, more time.

Chen et al., Training Deep Nets with Sublinear Memory Cost (2016), by torch.utils.checkpoint.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from trainctl.config.settings import Config
from trainctl.errors import ConfigError, did_you_mean

_KEY = "train.activation_checkpoint"
_SHOWN = 12


def checkpoint_activations(config: Config, model: Any) -> str:
    """Have the modules that ``train.activation_checkpoint`` names keep their inputs only, in training.

    Of modules inside each other the outermost is taken; names and values of the state stay as they are.
    Returns which, in words; empty without. Raises ConfigError for a pattern that matches nothing, and for
    modules that would not give the same step.
    """
    patterns = config.train.activation_checkpoint
    if not patterns:
        return ""
    if config.loop.name != "optimizer" or not isinstance(model, nn.Module):
        raise ConfigError(
            f"{_KEY} requires loop=optimizer and a torch.nn model: others compute gradients by themselves",
            f"use {_KEY}=[]",
        )
    modules = {name: module for name, module in model.named_modules() if name}
    chosen: list[str] = []
    for pattern in patterns:
        matching = [name for name in modules if fnmatchcase(name, pattern)]
        if not matching:
            some = ", ".join([*modules][:_SHOWN]) + (", …" if len(modules) > _SHOWN else "")
            raise ConfigError(
                f"{_KEY}={pattern}: matches no module", f"{did_you_mean(pattern, modules)}there are: {some}"
            )
        chosen += matching
    outermost = [name for name in modules if name in chosen and not any(_is_below(name, up) for up in chosen)]
    for name in outermost:
        _refuse(name, modules[name])
    for name in outermost:
        base: Any = type(modules[name])
        modules[name].__class__ = _recomputed(base)
    more = f" and {len(outermost) - _SHOWN} more" if len(outermost) > _SHOWN else ""
    return f"{', '.join(outermost[:_SHOWN])}{more}"


def _is_below(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")


def _refuse(name: str, module: nn.Module) -> None:
    """Raise ConfigError for a module whose second computation would change the run."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        raise ConfigError(f"{_KEY}={name}: is a list of modules, not one", f"name those in it: {name}.*")
    for inner, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{_KEY}={name}: {f'{name}.{inner}'.rstrip('.')} would count each batch twice",
                "batch normalization keeps statistics: use another one, or name modules without it",
            )


@cache
def _recomputed(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the same name; a class, so that copies of a model have their own."""

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        plain = partial(base.forward, self)
        if not (self.training and torch.is_grad_enabled()):
            return plain(*inputs, **named)
        from torch.utils.checkpoint import checkpoint

        return checkpoint(plain, *inputs, use_reentrant=False, **named)

    return type(base.__name__, (base,), {"forward": forward, "__module__": base.__module__})
