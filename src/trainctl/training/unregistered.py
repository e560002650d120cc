"""Parts of a model that its state does not hold: neither an optimizer nor a checkpoint ever sees them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError
from trainctl.registry.protocols import named_modules
from trainctl.training.runtime import seed_everything

_OWN = frozenset(vars(nn.Module()))
_DEPTH = 3


def refuse_unregistered(name: str, model: Any, again: Callable[[], Any], seed: int) -> None:
    """Raise ConfigError for layers and parameters in a plain list or mapping, and for tensors that another
    model of the same config has other values of: a loaded model would not be the one that was trained.

    Args:
        model: as it was built.
        again: builds another one; called only where ``model`` has a tensor that its state does not hold.
        seed: another one than the model's.
    """
    if not isinstance(model, nn.Module):
        return
    known = {id(each) for each in (*model.modules(), *model.parameters(), *model.buffers())}
    plain: list[str] = []
    for place, value in _attributes(model):
        if id(value) in known:
            continue
        if isinstance(value, nn.Module) and any(True for _ in value.state_dict()):
            raise ConfigError(
                f"model={name}: {place} is a layer unknown to the model, which is neither trained nor saved",
                "keep layers in nn.ModuleList or nn.ModuleDict",
            )
        if isinstance(value, Tensor) and value.requires_grad and value.is_leaf:
            raise ConfigError(
                f"model={name}: {place} is a tensor unknown to the model, which is neither trained nor saved",
                "make it an nn.Parameter, in an attribute or an nn.ParameterList",
            )
        if isinstance(value, Tensor):
            plain.append(place)
    if plain:
        _refuse_random(name, model, again, seed, plain)


def _refuse_random(
    name: str, model: nn.Module, again: Callable[[], Any], seed: int, plain: list[str]
) -> None:
    """Raise ConfigError for the first of the places whose tensor another model has with other values."""
    states = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        seed_everything(seed)
        others = dict(_attributes(again()))
    finally:
        torch.set_rng_state(states[0])
        numpy.random.set_state(states[1])
        random.setstate(states[2])
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)
    own = dict(_attributes(model))
    for place in plain:
        other = others.get(place)
        if not isinstance(other, Tensor) or not _equal(own[place], other):
            raise ConfigError(
                f"model={name}: {place} is a tensor drawn at random that no checkpoint would hold",
                f"keep it in a buffer: self.register_buffer({place.rpartition('.')[2]!r}, …)",
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.is_meta or other.is_meta or one.shape != other.shape:
        return one.shape == other.shape
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=one.is_floating_point())


def _attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Layers and tensors in attributes of all modules, and in lists and mappings there, with their places."""
    for prefix, module in named_modules(model):
        for key, value in vars(module).items():
            if key not in _OWN:
                yield from _inside(f"{prefix}.{key}" if prefix else key, value, _DEPTH)


def _inside(place: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module | Tensor):
        yield place, value
    elif depth and isinstance(value, Mapping):
        for key, each in value.items():
            yield from _inside(f"{place}[{key!r}]", each, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _inside(f"{place}[{number}]", each, depth - 1)
