"""Refuses configs that would have Hydra call something."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trainctl.errors import Problem, UnsafeInputError
from trainctl.registry.constraints import show

_RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_", "()")
_HYDRA_CLASSES = ("hydra._internal.core_plugins.", "hydra.experimental.callbacks.", "hydra_plugins.")


def refuse_unsafe(full: DictConfig) -> None:
    """Raise UnsafeInputError where a config names something to call.

    ``_target_`` and its kin have no meaning in trainctl; inside Hydra's own node they may name the classes of
    Hydra and its plugins only. ``()`` is logging's key for a factory.
    """
    values = OmegaConf.to_container(full, resolve=False)
    assert isinstance(values, dict)
    refuse_calls({str(key): value for key, value in values.items()})


def refuse_calls(values: dict[str, Any]) -> None:
    """The same for plain dictionaries."""
    problems: list[Problem] = []
    _find_calls(values, "", problems)
    if problems:
        raise UnsafeInputError(problems)


def _find_calls(node: Any, path: str, problems: list[Problem]) -> None:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        full = f"{path}.{key}" if path else str(key)
        inside_hydra = full.startswith("hydra.")
        if inside_hydra and key == "_target_" and str(value).startswith(_HYDRA_CLASSES):
            continue
        if inside_hydra and key in ("_recursive_", "_convert_"):
            continue
        if inside_hydra and key == "class" and re.fullmatch(r"logging(\.handlers)?\.\w+", str(value)):
            continue
        if key in _RESERVED or (inside_hydra and key == "class"):
            problems.append(
                Problem(
                    f"{full}={show(value)}: refused, a config chooses by name and cannot call code",
                    "choose with GROUP=OPTION; add your own code with plugins=[./my_model.py]",
                )
            )
        else:
            _find_calls(value, full, problems)
