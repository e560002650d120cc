"""Chooses the whole step of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from trainctl.config.settings import Config
from trainctl.training.hooks.guard import Guard
from trainctl.training.steps.accumulated import accumulated_step
from trainctl.training.steps.guarded import guarded_rung, guarded_step


@dataclass(frozen=True)
class Step:
    """A whole training step.

    Attributes:
        take: called as :func:`trainctl.training.loop.train_step`.
        name: for people: ``plain, loss guard``.
    """

    take: Callable[..., Tensor]
    name: str


def unguarded_step(config: Config, loop: Any) -> Step:
    """The step without a guard: the loop's own, or several batches as one."""
    if config.loop.name != "optimizer":
        return Step(loop.step, f"loop={config.loop.name}")
    if config.train.accumulate > 1:
        step = partial(accumulated_step, batch_size=config.train.batch_size)
        return Step(step, f"accumulated over {config.train.accumulate} batches")
    return Step(loop.step, "plain")


def choose_step(config: Config, loop: Any, guard: Guard | None) -> Step:
    """The step that the config asks for, with ``guard`` where there is one."""
    chosen = unguarded_step(config, loop)
    if guard is None:
        return chosen
    take: Callable[..., Tensor]
    if config.loop.name == "lightning":
        take = chosen.take  # its training_step asks the guard
    elif config.loop.name != "optimizer":
        take = guarded_rung(chosen.take, guard)
    elif config.train.accumulate > 1:
        take = partial(accumulated_step, batch_size=config.train.batch_size, guard=guard)
    else:
        take = partial(guarded_step, guard=guard)
    return Step(take, f"{chosen.name}, {guard.watches} guard")
