"""Chooses the whole step of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
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


Cut = Callable[[Tensor], Sequence[Tensor]]


def unguarded_step(config: Config, loop: Any, cut: Cut | None = None) -> Step:
    """The step without a guard: the loop's own, or several batches as one, which ``cut`` cuts, if given."""
    if config.loop.name != "optimizer":
        return Step(loop.step, f"loop={config.loop.name}")
    if config.train.accumulate > 1:
        step = partial(accumulated_step, cut=cut or partial(_split, batch_size=config.train.batch_size))
        return Step(step, f"accumulated over {config.train.accumulate} batches")
    return Step(loop.step, "plain")


def _split(window: Tensor, batch_size: int) -> Sequence[Tensor]:
    return torch.split(window, batch_size)


def choose_step(config: Config, loop: Any, guard: Guard | None, cut: Cut | None = None) -> Step:
    """The step that the config asks for, with ``guard`` where there is one; ``cut`` as in unguarded_step."""
    chosen = unguarded_step(config, loop, cut)
    if guard is None:
        return chosen
    take: Callable[..., Tensor]
    if config.loop.name == "lightning":
        take = chosen.take  # its training_step asks the guard
    elif config.loop.name != "optimizer":
        take = guarded_rung(chosen.take, guard)
    elif config.train.accumulate > 1:
        take = partial(chosen.take, guard=guard)
    else:
        take = partial(guarded_step, guard=guard)
    return Step(take, f"{chosen.name}, {guard.watches} guard")
