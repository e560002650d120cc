"""Command-line overrides: their parts, what Hydra's grammar is given of them, and how people are shown them.

``lr=1e-3`` means ``optim.lr``; ``dataset.root=~/data`` and ``dataset.path=a=b.csv`` are paths, not
expressions; an argument of a component may be set whether or not its YAML lists it, because the
component's signature, not the YAML, decides what exists.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from trainctl.errors import ConfigError
from trainctl.registry import COMPONENTS, TRACKERS

ALIASES = {"lr": "optim.lr", "epochs": "train.epochs", "batch_size": "train.batch_size"}
"""Short keys people type, and the keys they stand for."""

PATH_KEYS = (
    "dataset.root",
    "dataset.path",
    "dataset.test_path",
    "dataset.val_path",
    "dataset.cache_dir",
    "init_from",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
"""Keys whose values are paths: quoted for Hydra's grammar, with ``~`` expanded."""

TEXT_KEYS = (
    "dataset.target",
    "dataset.delimiter",
    "dataset.separator",
    "tracker.mlflow.uri",
    "tracker.wandb.uri",
)
"""Keys whose values are free text: quoted, so that a column may be called ``length (cm)``."""

_ASSIGNMENT = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=]+)=(?P<value>.*)", re.DOTALL)
DEEPEST = 100
"""Levels of lists and tables in a value: Hydra's grammar takes seconds for more, and then gives up."""
_NUMBER_OR_LIST = re.compile(r"-?\d+$|\[")


def split_override(override: str) -> tuple[str, str, str]:
    """``++optim.lr=0.1`` as its sign, key and value; ("", override, "") when it is no assignment."""
    match = _ASSIGNMENT.fullmatch(override)
    if match is None:
        return "", override.lstrip("+~"), ""
    return match["sign"] or "", match["key"], match["value"]


def to_hydra(override: str, *, sweep: bool = False) -> str:
    """An override as typed, in the form that Hydra's grammar needs.

    In a sweep the commas of a path separate values, as they do everywhere else in a sweep.

    Raises ConfigError for a value that is nested too deep to be read.
    """
    if nesting(override) > DEEPEST:
        raise ConfigError(f"{split_override(override)[1]}: nested deeper than {DEEPEST} levels")
    if _ASSIGNMENT.fullmatch(override) is None:
        return f"~{ALIASES.get(override[1:], override[1:])}" if override.startswith("~") else override
    sign, key, value = split_override(override)
    key = ALIASES.get(key, key)
    if key == "name" and value:
        value = quote(value)
    if key == "plugins" and value and value[0] not in "[$'\"" and value != "null":
        value = f"[{value}]"
    if key in PATH_KEYS or (key in TEXT_KEYS and not _NUMBER_OR_LIST.match(value)):
        several = sweep and value[:1] not in ("'", '"')
        value = ",".join(map(quote, value.split(","))) if several else quote(value)
    if sign != "~" and is_component_argument(key):
        sign = "++"
    return f"{sign}{key}={value}"


def nesting(text: str) -> int:
    """The levels of brackets in YAML, or in a value as Hydra reads it."""
    depth = deepest = 0
    for bracket in re.findall(r"[()\[\]{}]", text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def is_component_argument(key: str) -> bool:
    """True for ``model.hidden`` and the like: decided by a component's signature."""
    group, dot, rest = key.partition(".")
    return bool(dot and rest) and group in (*COMPONENTS, TRACKERS.group)


def to_display(override: str) -> str:
    """An override for people: without its sign, with the short key where there is one."""
    _, key, value = split_override(override)
    short = {full: alias for alias, full in ALIASES.items()}
    return f"{short.get(key, key)}={value}"


def repeated(overrides: Iterable[str]) -> list[str]:
    """A notice for each key that several of the overrides set."""
    split = [split_override(override) for override in dict.fromkeys(overrides)]
    short = {full: alias for alias, full in ALIASES.items()}
    counts = Counter(key for sign, key, _ in split if sign != "~")
    return [
        f"{short.get(key, key)}: given {count} times, the last one counts"
        for key, count in counts.items()
        if count > 1
    ]


def quote(value: str) -> str:
    """A path or a text in quotes for Hydra's grammar, with ``~`` expanded."""
    if not value or value[0] in "'\"" or value == "null" or value.startswith("${"):
        return value
    if value.startswith("~"):
        try:
            value = str(Path(value).expanduser())
        except RuntimeError:
            raise ConfigError(f"{value}: there is no such user", "give an absolute path") from None
    # In Hydra's quotes a quote is escaped, and so are the backslashes right before a quote.
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + "\\'", value)
    escaped = re.sub(r"\\+$", lambda found: found[0] * 2, escaped)
    return f"'{escaped}'"
