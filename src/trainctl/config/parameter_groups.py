"""Checks of ``optim.groups``: settings of the optimizer for some of the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainctl.errors import Problem, did_you_mean
from trainctl.registry import OPTIMIZERS, Positive
from trainctl.registry.constraints import describe, show

SCALE = "lr_scale"
"""The setting that multiplies the learning rate, whatever that is."""
_WHOLE = ("fused", "foreach", "capturable", "differentiable")
"""Decisions that hold for all parameters."""


def check_groups(optimizer: str, groups: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """The problems of settings by pattern for ``optimizer``: unknown ones, and values of a wrong type."""
    own = [each for each in OPTIMIZERS.signature(optimizer).parameters if each.name not in OPTIMIZERS.common]
    known = {each.name: each.annotation for each in own if each.name not in _WHOLE}
    if "lr" in known:
        known[SCALE] = Positive
    for pattern, settings in groups.items():
        if not settings:
            yield Problem(
                f"optim.groups.{pattern}: is empty", f"give a setting, such as {{{next(iter(known))}: …}}"
            )
        if {"lr", SCALE} <= set(settings):
            yield Problem(f"optim.groups.{pattern}: has both lr and {SCALE}", "give one of them")
        for key, value in settings.items():
            given = f"optim.groups.{pattern}.{key}={show(value)}"
            if key not in known:
                remedy = f"{did_you_mean(key, known)}there are: {', '.join(known)}"
                yield Problem(f"{given}: optimizer {optimizer} has no such setting", remedy)
                continue
            try:
                plain = tuple(value) if isinstance(value, list) else value
                TypeAdapter(known[key]).validate_python(plain, strict=True)
            except ValidationError:
                yield Problem(f"{given}: must be {describe(known[key])}")
