"""The overrides of every smoke config, and the keys that nobody may set otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from trainctl.config.overrides import ALIASES, split_override
from trainctl.errors import ConfigError, Problem

STEPS = 2
BATCH, LIMIT = 8, 32
SETTINGS = (
    "train.epochs=null",
    f"train.max_steps={STEPS}",
    f"train.batch_size={BATCH}",
    f"++dataset.limit={LIMIT}",
    "device=cpu",
    "threads=1",
    "compile=false",
    "profile=false",
    "pictures=false",
    "checkpoint.every_steps=1",
    "checkpoint.every_epochs=null",
    "checkpoint.every_minutes=null",
    "checkpoint.keep_last=2",
    "checkpoint.overlap=false",
    "checkpoint.mirror=null",
)
"""Typed overrides win over these, except for the keys that :func:`refuse` names."""
_STEPS = f"smoke trains every config for {STEPS} steps, and kills one run after the first"
_FIXED = {
    "train.epochs": _STEPS,
    "train.max_steps": _STEPS,
    "checkpoint": "smoke saves after every step, and compares the checkpoints",
    "device": "smoke trains on the CPU, where values repeat to the last bit",
    "compile": "smoke compares values to the last bit, and compiling changes the last bits",
}
"""Keys, or first parts of keys, that smoke's checks depend on, with the reason."""


def refuse(typed: Sequence[str]) -> None:
    """Raise ConfigError for typed overrides that would fail every config."""
    problems, values = [], {"train.batch_size": str(BATCH), "dataset.limit": "null"}
    for word in typed:
        _, key, value = split_override(word)
        key = ALIASES.get(key, key)
        values[key] = value
        reason = _FIXED.get(key) or _FIXED.get(key.partition(".")[0])
        if reason and f"{key}={value}" not in SETTINGS:
            problems.append(Problem(f"{word}: {reason}", "leave it out"))
    batch, limit = values["train.batch_size"], values["dataset.limit"]
    if batch.isdecimal() and limit.isdecimal() and int(limit) < int(batch):
        remedy = f"dataset.limit={batch} or more, or a smaller batch_size"
        problems.append(Problem(f"dataset.limit={limit}: fewer than the {batch} samples of a batch", remedy))
    if problems:
        raise ConfigError(problems)
