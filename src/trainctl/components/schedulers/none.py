"""Constant learning rate."""

from __future__ import annotations

from trainctl.registry import SCHEDULERS


@SCHEDULERS.register("none")
def none() -> None:
    """Constant learning rate: no scheduler."""
