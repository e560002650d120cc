"""Values of the environment that a config refers to: files of a run have the reference instead."""

from __future__ import annotations

import os
from typing import Any

PREFIX = "TRAINCTL_SECRET_"
"""What the variables are called that hold the secrets of this command, typed or from a file of ``./conf``."""
_SHORTEST, _SHORTEST_SECRET = 8, 4  # of a word like ``cpu`` every line would have the reference
_references: dict[str, str] = {}


def reference(variable: str) -> str:
    """How a config refers to a variable of the environment."""
    return f"${{oc.env:{variable}}}"


def remember(variable: str, value: str) -> None:
    """Mask ``value`` from now on: a config has been given it by this variable."""
    if len(value) >= (_SHORTEST_SECRET if variable.startswith(PREFIX) else _SHORTEST):
        _references[value] = reference(variable)


def hold(variable: str, value: str) -> str:
    """Keep a secret in this process and its children; returns the reference that stands for it."""
    os.environ[variable] = value
    remember(variable, value)
    return reference(variable)


def held() -> dict[str, str]:
    """The secrets of this command by variable."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}


def masked(text: str, *, secrets_only: bool = False) -> str:
    """``text`` with the reference in place of each value that is known.

    Args:
        secrets_only: values of the user's own variables stay: they may be paths that are read back.
    """
    for value, written in sorted(_references.items(), key=lambda each: -len(each[0])):
        if value in text and (PREFIX in written or not secrets_only):
            text = text.replace(value, written)
    return text


def masked_in(value: Any, *, secrets_only: bool = False) -> Any:
    """The same for every text in tables and lists."""
    if isinstance(value, str):
        return masked(value, secrets_only=secrets_only)
    if isinstance(value, dict):
        return {key: masked_in(item, secrets_only=secrets_only) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_in(item, secrets_only=secrets_only) for item in value]
    return value
