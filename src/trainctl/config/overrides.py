"""The command line's words, made friendly before Hydra's grammar sees them.

``lr=1e-3`` means ``optim.lr``; ``dataset.root=~/data`` and ``dataset.path=a=b.csv`` are paths, not
expressions; an argument of a component may be set whether or not its YAML lists it, because the
component's signature, not the YAML, decides what exists.
"""

from __future__ import annotations

import re
from pathlib import Path

from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS, TRACKERS

ALIASES = {"lr": "optim.lr", "epochs": "train.epochs", "batch_size": "train.batch_size"}
"""Short keys people type, and the keys they stand for."""

PATH_KEYS = (
    "dataset.root",
    "dataset.path",
    "dataset.test_path",
    "init_from",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
"""Keys whose values are paths: quoted for Hydra's grammar, with ``~`` expanded."""

TEXT_KEYS = ("dataset.target", "dataset.delimiter", "tracker.mlflow.uri")
"""Keys whose values are text that others chose: quoted, so that a column may be called ``length (cm)``."""

_WORD = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=]+)=(?P<value>.*)", re.DOTALL)
_NUMBER_OR_LIST = re.compile(r"-?\d+$|\[")


def split(word: str) -> tuple[str, str, str]:
    """``++optim.lr=0.1`` as its sign, key and value; ("", word, "") when it is no assignment."""
    match = _WORD.fullmatch(word)
    return (match["sign"] or "", match["key"], match["value"]) if match else ("", word.lstrip("+~"), "")


def friendly(word: str, *, sweep: bool = False) -> str:
    """One word as typed, as Hydra should see it.

    In a sweep the commas of a path separate values, as they do everywhere else in a sweep.
    """
    if _WORD.fullmatch(word) is None:
        return f"~{ALIASES.get(word[1:], word[1:])}" if word.startswith("~") else word
    sign, key, value = split(word)
    key = ALIASES.get(key, key)
    if key == "name" and value:
        value = quoted(value)
    if key == "plugins" and value and value[0] not in "[$'\"" and value != "null":
        value = f"[{value}]"
    if key in PATH_KEYS or (key in TEXT_KEYS and not _NUMBER_OR_LIST.match(value)):
        several = sweep and value[:1] not in ("'", '"')
        value = ",".join(map(quoted, value.split(","))) if several else quoted(value)
    if sign != "~" and is_component_argument(key):
        sign = "++"
    return f"{sign}{key}={value}"


def is_component_argument(key: str) -> bool:
    """True for ``model.hidden`` and the like: decided by a component's signature."""
    group, dot, rest = key.partition(".")
    return bool(dot and rest) and group in (*COMPONENTS, TRACKERS.group)


def shown(word: str) -> str:
    """A word for people: without its sign, with the short key where there is one."""
    _, key, value = split(word)
    short = {full: alias for alias, full in ALIASES.items()}
    return f"{short.get(key, key)}={value}"


def quoted(value: str) -> str:
    """A path or a text for Hydra's grammar, with ``~`` expanded."""
    if not value or value[0] in "'\"" or value == "null" or value.startswith("${"):
        return value
    if value.startswith("~"):
        try:
            value = str(Path(value).expanduser())
        except RuntimeError:
            raise ConfigError(f"{value}: there is no such user", "give the path from / on") from None
    # In Hydra's quotes a quote is escaped, and so are the backslashes right before a quote.
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", value)
    escaped = re.sub(r"\\+$", lambda found: found[0] * 2, escaped)
    return f"'{escaped}'"
