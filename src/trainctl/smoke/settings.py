"""What a smoke run sets for every config, and which of it nobody can set otherwise."""

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
)
"""What holds for every config. What is typed wins over it, but for the keys of :func:`refuse`."""
_STEPS = f"smoke trains every config for {STEPS} steps, of which it kills one run after the first"
_FIXED = {
    "train.epochs": _STEPS,
    "train.max_steps": _STEPS,
    "checkpoint": "smoke saves after every step, and compares what it has saved",
    "device": "smoke trains on the CPU, where values repeat to the last bit",
    "compile": "smoke compares values to the last bit, and a compiled model's last bits are its own",
}
"""The keys that smoke's own checks rest on, or the groups of such, with the reason."""


def refuse(typed: Sequence[str]) -> None:
    """Raise ConfigError for typed words with which every config would fail, whatever it is worth."""
    values = {ALIASES.get(key, key): value for _, key, value in map(split_override, typed)}
    problems = []
    for word in typed:
        _, key, value = split_override(word)
        full = ALIASES.get(key, key)
        fixed = full if full in _FIXED else full.partition(".")[0] if "." in full else ""
        if fixed in _FIXED and f"{full}={value}" not in SETTINGS:
            problems.append(Problem(f"{word}: {_FIXED[fixed]}", "leave it out"))
    batch = values.get("train.batch_size", str(BATCH))
    limit = values.get("dataset.limit", "null")
    if batch.isdecimal() and limit.isdecimal() and int(limit) < int(batch):
        problems.append(
            Problem(
                f"dataset.limit={limit}: fewer than the {batch} samples of a batch",
                f"dataset.limit={batch} or more, or a smaller batch_size",
            )
        )
    if problems:
        raise ConfigError(problems)
