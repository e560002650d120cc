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
from trainctl.training.run import Run
from trainctl.training.steps.accumulated import accumulated_step
from trainctl.training.steps.guarded import guarded_rung
from trainctl.training.steps.micro_batches import MicroBatches


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


def unguarded_step(
    config: Config, loop: Any, cut: Cut | None = None, pieces: MicroBatches | None = None
) -> Step:
    """The step without a guard: the loop's own, or several batches as one, which ``cut`` cuts, if given.

    With ``train.micro_batch`` it is that of ``pieces``; without any, new ones.
    """
    if config.loop.name != "optimizer":
        return Step(loop.step, f"loop={config.loop.name}")
    if config.train.micro_batch is not None:
        pieces = pieces or micro_batches(config)
        halved = "" if pieces.halved is None else ", halved where memory runs out"
        return Step(pieces, f"micro-batches of {pieces.size}{halved}")
    if config.train.accumulate > 1:
        step = partial(accumulated_step, cut=cut or partial(_split, batch_size=config.train.batch_size))
        return Step(step, f"accumulated over {config.train.accumulate} batches")
    return Step(loop.step, "plain")


def _split(window: Tensor, batch_size: int) -> Sequence[Tensor]:
    return torch.split(window, batch_size)


def micro_batches(config: Config, run: Run | None = None, recorded: str | None = None) -> MicroBatches:
    """The pieces of ``train.micro_batch``; those of auto are as small as ``recorded`` to begin with, and
    ``run`` announces smaller ones."""
    size = config.train.piece
    if config.train.micro_batch != "auto":
        return MicroBatches(size)

    def halved(size: int) -> None:
        if run is not None:
            what = f"batches are computed in pieces of {size} samples from here on, for the same steps"
            run.announce("micro_batch", f"step {run.state.step + 1}: out of memory; {what}", str(size))

    if recorded is not None and recorded.isdecimal() and int(recorded):
        size = min(size, int(recorded))
    return MicroBatches(size, halved)


def choose_step(
    config: Config,
    loop: Any,
    guard: Guard | None,
    cut: Cut | None = None,
    pieces: MicroBatches | None = None,
) -> Step:
    """The step that the config asks for, with ``guard`` where there is one; the rest as in unguarded_step."""
    chosen = unguarded_step(config, loop, cut, pieces)
    if guard is None:
        return chosen
    take: Callable[..., Tensor]
    if config.loop.name == "lightning":
        take = chosen.take  # its training_step asks the guard
    elif config.loop.name != "optimizer":
        take = guarded_rung(chosen.take, guard)
    else:
        take = partial(chosen.take, guard=guard)
    return Step(take, f"{chosen.name}, {guard.watches} guard")
