"""Refuses configs that would have Hydra call something; remembers what they read of the environment."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

from trainctl.config.overrides import DEEPEST, nesting, split_override
from trainctl.errors import ConfigError, Problem, UnsafeInputError
from trainctl.paths import user_conf
from trainctl.registry import trust
from trainctl.registry.constraints import show
from trainctl.runs import secrets

_RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_", "()")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:([A-Za-z_]\w*)(,[^${}]*)?\}")
# Any other resolver, and a reference within a reference, could have the name of a variable put together.
_OTHER_RESOLVER = re.compile(r"\$\{[^{}]*(:|\$\{)[^{}]*\}?")
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


def refuse_nested_files() -> None:
    """Raise ConfigError for the user's option file that is nested too deep to be read."""
    folder = user_conf()
    for path in sorted(folder.rglob("*.yaml")) if folder is not None else ():
        if nesting(path.read_text(errors="replace")) > DEEPEST:
            raise ConfigError(f"{path}: nested deeper than {DEEPEST} levels")


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


def _environment(key: str, *default: Any) -> str | None:
    """OmegaConf's ``oc.env``, which remembers what it gave, to mask it."""
    value: str | None = oc.env(key, *default)
    if value is not None and key in os.environ:
        secrets.remember(key, value)
    return value


OmegaConf.register_new_resolver("oc.env", _environment, replace=True)


def environment_names(text: str) -> set[str]:
    """The variables of the environment that a config or an override refers to."""
    return {match[1] for match in _ENVIRONMENT.finditer(text)}


def refuse_environment(values: Any, directory: Path, typed: Sequence[str] = ()) -> None:
    """Raise UnsafeInputError where the config of a run or sweep refers to the environment, unless this user's
    command trained it, or names the variable (``typed``), or the user's ``./conf`` does."""
    plain = OmegaConf.to_container(values, resolve=False) if OmegaConf.is_config(values) else values
    texts = [text for text in _texts(plain) if "${" in text]
    if not any(":" in text or text.count("${") > 1 for text in texts):
        return
    allowed = trust.environment_of(directory) | environment_names(" ".join(typed))
    if "*" in allowed:
        return
    allowed |= environment_names(_user_conf())
    for text in texts:
        named = environment_names(text)
        rest = _ENVIRONMENT.sub("", text)
        if (named - allowed) or _OTHER_RESOLVER.search(rest):
            raise UnsafeInputError(
                f"{directory}: its config reads the environment: {text}",
                "you did not train it on this machine; if you trust it, name the variable in ./conf",
            )


def _texts(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [text for pair in node.items() for each in pair for text in _texts(each)]
    if isinstance(node, list):
        return [text for each in node for text in _texts(each)]
    return [node] if isinstance(node, str) else []


def _user_conf() -> str:
    folder, found = user_conf(), []
    for path in folder.rglob("*.yaml") if folder is not None else ():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found.append(path.read_text(encoding="utf-8"))
    return "\n".join(found)
