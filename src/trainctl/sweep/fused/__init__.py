"""Jobs that differ only in numbers, trained as one stacked model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trainctl.sweep.fused._plan import plan
from trainctl.training.display import Display
from trainctl.training.startup import importing

if TYPE_CHECKING:
    from trainctl.training.request import Request

__all__ = ["plan", "train_group"]


def train_group(
    requests: Sequence[Request],
    progress: Callable[[int], Display] = lambda number: Display(),
    *,
    sharing: int = 1,
) -> list[dict[str, Any] | BaseException]:
    """Train a group that :func:`plan` has put together, each job into its own run directory.

    Returns the ``run.json`` of each job, or the error that ended it; an error of one leaves the others alone.
    Told to stop, all are saved, and each has an error that says so. Jobs that turn out not to stack are
    trained one by one, and the log of each says why.

    Args:
        requests: one a job, whose directories are taken.
        progress: the display of a job, by its number in ``requests``.
        sharing: how many processes train on the same memory; a stack takes at most half of its part.
    """
    with importing():
        from trainctl.sweep.fused._group import train

    return train(requests, progress, sharing)
