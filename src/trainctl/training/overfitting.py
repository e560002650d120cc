"""Training on a few batches again and again: what cannot learn those will not learn the rest.

The oldest check of a model, its data and its loss: Karpathy, A Recipe for Training Neural Networks (2019).
Whatever keeps a loss from reaching zero is off: augmentation, dropout, shuffling, the scheduler.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainctl.config.settings import Component, Config
from trainctl.data import AnySplit
from trainctl.data.sampler import epoch_order
from trainctl.registry.protocols import named_modules


def simplified(config: Config) -> Config:
    """The config without scheduler and augmentation."""
    dataset = replace(config.dataset, common={**config.dataset.common, "augment": []})
    return replace(config, dataset=dataset, scheduler=Component("scheduler", "none"))


def first_samples(split: AnySplit, count: int, seed: int) -> AnySplit:
    """The first ``count`` samples in the order of the first epoch, all of them where there are fewer."""
    return split.select(epoch_order(len(split), seed, 0)[:count])


def without_dropout(model: Any) -> None:
    """Set the probability of every dropout layer to 0, in place."""
    for _, module in named_modules(model):
        if "Dropout" in type(module).__name__ and isinstance(getattr(module, "p", None), float):
            module.p = 0.0


def notice(batches: int, samples: int) -> str:
    """What people are told of it."""
    which = "one batch" if batches == 1 else f"{batches} batches"
    return (
        f"train.overfit_batches={batches}: {which} ({samples} samples) again and again, in one order; no"
        " validation, test, augmentation, dropout or scheduler"
    )
