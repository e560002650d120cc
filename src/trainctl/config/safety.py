"""Refuses configs that would have Hydra call something."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainctl.config.overrides import split_override
from trainctl.errors import Problem, UnsafeInputError
from trainctl.registry.constraints import show

_RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_", "()")
_HYDRA_CLASSES = ("hydra._internal.core_plugins.", "hydra.experimental.callbacks.", "hydra_plugins.")


def refuse_unsafe(values: DictConfig | Mapping[Any, Any]) -> None:
    """Raise UnsafeInputError where a config names something to call.

    ``_target_`` and its kin have no meaning in trainctl; inside Hydra's own node they may name the classes of
    Hydra and its plugins only. ``()`` is logging's key for a factory.
    """
    plain = OmegaConf.to_container(values, resolve=False) if isinstance(values, DictConfig) else values
    _raise_for([f"{key}={show(value)}" for key, value in _calls(plain, "")])


def refuse_unsafe_overrides(overrides: Sequence[str]) -> None:
    """The same for the keys of overrides, before Hydra reads them."""
    unsafe = []
    for override in overrides:
        _, key, value = split_override(override)
        *groups, leaf = key.split(".")
        if any(group in _RESERVED for group in groups) or _is_call(key, leaf, value):
            unsafe.append(override.lstrip("+~"))
    _raise_for(unsafe)


def _raise_for(unsafe: Sequence[str]) -> None:
    if unsafe:
        remedy = "choose with GROUP=OPTION; add your own code with plugins=[./my_model.py]"
        raise UnsafeInputError(
            [Problem(f"{each}: refused, a config cannot call code", remedy) for each in unsafe]
        )


def _calls(node: Any, path: str) -> list[tuple[str, Any]]:
    """The dotted keys below ``path`` that name something to call, with their values."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    found: list[tuple[str, Any]] = []
    for key, value in items:
        full = f"{path}.{key}" if path else str(key)
        found += [(full, value)] if _is_call(full, key, value) else _calls(value, full)
    return found


def _is_call(full: str, key: Any, value: Any) -> bool:
    if not full.startswith("hydra."):
        return key in _RESERVED
    if key == "_target_":
        return not str(value).startswith(_HYDRA_CLASSES)
    if key == "class":
        return re.fullmatch(r"logging(\.handlers)?\.\w+", str(value)) is None
    return key in ("_partial_", "_args_", "()")
