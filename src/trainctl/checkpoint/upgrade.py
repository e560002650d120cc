"""Checkpoints of version 0.1 in today's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RENAMED = {"stale": "num_bad_epochs", "reference": "best_value", "order": "data_fingerprint"}
# The states of hooks were called by the hooks' classes; those of hooks without a state were stored, too.
_HOOKS = {
    "Checkpointer": "checkpoints", "Ema": "ema", "MetricsLog": "metrics_log", "Overfit": "overfit",
    "Plateau": "plateau",
}  # fmt: skip


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """``state`` as it is written today. What is damaged or missing in it is found when it is used."""
    if "parts" in state:
        return dict(state)
    kept = {_RENAMED.get(key, key): value for key, value in state.items()}
    parts = {
        name: kept.pop(name) for name in ("optimizer", "scheduler", "random") if kept.get(name) is not None
    }
    kept.pop("scheduler", None)
    hooks = kept.pop("hooks", None)
    if isinstance(hooks, Mapping):
        parts |= {_HOOKS[name]: packed for name, packed in hooks.items() if name in _HOOKS}
    return {**kept, "parts": parts}
