"""Secrets in words and configs: each becomes a reference to a variable of the environment of this command.

So a run stores the reference, its processes inherit the value, and a resumed run asks for it by its key.
What is a secret is decided by the last part of its key (``api_key``, ``token``, ``password`` …), and in an
address by its place (``https://user:PASSWORD@host``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

from trainctl.config.overrides import split_override
from trainctl.errors import ConfigError
from trainctl.runs import secrets

_NAME = (
    r"(?:\w*(?:api|access|account|private|secret)_?key|\w*secret|\w*passw(?:or)?d|\w*passphrase|\w*credentials?"
    r"|(?:\w*(?:api|access|auth|bearer|hf|hub|refresh|session|secret)_)?token)"
)
_KEY = re.compile(rf"(?:.*\.)?{_NAME}", re.IGNORECASE)
_INSIDE = re.compile(
    rf"(?<!\w){_NAME}[\"']?\s*:\s*(?!null|true|false|\$|[\"']{{2}})[^\s,}}\]]", re.IGNORECASE
)
_ADDRESS = re.compile(r"(?<=://)([^\s/@:'\"]*):([^\s/@'\"${}]+)(?=@)")
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # as in Hydra's grammar
_NUMBER = re.compile(r"[-+]?[\d_.]+(e[-+]?\d+)?", re.IGNORECASE)
_NOTHING = ("", "null", "true", "false", "???")


def hide_typed(words: Sequence[str]) -> list[str]:
    """The words of a command with references for the secrets in them.

    Raises ConfigError for a secret inside a value in brackets, and for several of them in a sweep.
    """
    sweep = not {"-m", "--multirun"}.isdisjoint(words)
    return [_hidden_word(word, sweep) for word in words]


def _hidden_word(word: str, sweep: bool) -> str:
    sign, key, value = split_override(word)
    if not value or sign == "~":
        return word
    if value[0] in "[{" and (found := _INSIDE.search(value)):
        leaf = re.split(r"\W", found[0])[0]
        raise ConfigError(
            f"{key}: a secret, {leaf}, is inside of brackets", f"give it a word of its own: {key}.….{leaf}=…"
        )
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    text = value[1:-1].replace(f"\\{value[0]}", value[0]) if quoted else _ESCAPED.sub(r"\1", value)
    if not _KEY.fullmatch(key) or value[0] in "[{":
        hidden = _hidden_address(key, value)
        return word if hidden == value else f"{sign}{key}={hidden}"
    if not quoted and _is_none(key, text):
        return word
    if sweep and not quoted and re.search(r"(?<!\\),", value):
        raise ConfigError(f"{key}: a secret takes one value in a sweep", "one with a comma goes in quotes")
    return word if "${" in text else f"{sign}{key}={secrets.hold(_variable(key), text)}"


def hide_written(values: Any) -> dict[str, str]:
    """References for the secrets in a config that its files have written out, by dotted key."""
    hidden = {}
    for key, value in _strings(values, ""):
        secret = _KEY.fullmatch(key) and "${" not in value and value not in _NOTHING
        hidden[key] = secrets.hold(_variable(key), value) if secret else _hidden_address(key, value)
        if hidden[key] == value:
            del hidden[key]
    return hidden


def lacking_secrets(values: Any) -> dict[str, str]:
    """The keys of a stored config whose secrets this command was not given, with their variables."""
    found = {key: re.search(rf"(?<=oc\.env:){secrets.PREFIX}\w+", text) for key, text in _strings(values, "")}
    return {key: each[0] for key, each in found.items() if each and each[0] not in os.environ}


def _hidden_address(key: str, value: str) -> str:
    names = chain([_variable(key)], (f"{_variable(key)}_{number}" for number in count(2)))
    return _ADDRESS.sub(lambda found: f"{found[1]}:{secrets.hold(next(names), found[2])}", value)


def _is_none(key: str, text: str) -> bool:
    """Whether a value without quotes is no secret: of a token a number is an index of a vocabulary."""
    number = _NUMBER.fullmatch(text) and key.lower().endswith("token")
    return bool(number) or text.lower() in _NOTHING


def _variable(key: str) -> str:
    return secrets.PREFIX + re.sub(r"\W", "_", key.replace(".", "__")).upper()


def _strings(node: Any, path: str) -> list[tuple[str, str]]:
    """The texts below ``path`` by dotted key."""
    if isinstance(node, str):
        return [(path, node)]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [found for key, value in items for found in _strings(value, f"{path}.{key}" if path else str(key))]
