"""Training labels that are replaced at random, for experiments on robustness: ``dataset.label_noise``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainctl.components.tasks._base import task_of
from trainctl.data.sampler import derived_seed
from trainctl.data.types import Data, is_sampled
from trainctl.errors import ConfigError


def with_label_noise(data: Data, common: Mapping[str, Any]) -> Data:
    """``data`` with a share of the training labels wrong, drawn by what chose the split, not the run's seed.

    Raises ConfigError for targets that are not known as a whole, and for those without classes.
    """
    if not (share := common.get("label_noise")):
        return data
    if is_sampled(data.train):
        raise ConfigError(
            f"dataset.label_noise={share}: dataset {data.name} gives targets with its samples only",
            "leave dataset.label_noise out",
        )
    seed = derived_seed("label noise", *(common.get(key) for key in ("split_seed", "folds", "fold")))
    change = _Change(share, torch.Generator().manual_seed(seed))
    targets = task_of(data).relabelled(data.train.targets, data.output_size, change)
    note = f"{change.changed:,} of {change.seen:,} training labels are changed (dataset.label_noise={share})"
    return replace(data, train=replace(data.train, targets=targets), label_noise=note)


class _Change:
    """Replaces ``share`` of all labels that it gets, in several calls too, and counts them."""

    def __init__(self, share: float, generator: torch.Generator) -> None:
        self.share, self.generator = share, generator
        self.seen = self.changed = 0

    def __call__(self, labels: Tensor, classes: int) -> Tensor:
        if classes < 2:
            raise ConfigError(f"dataset.label_noise={self.share}: there is no other class", "leave it out")
        self.seen += len(labels)
        count = round(self.share * self.seen) - self.changed
        self.changed += count
        places = torch.randperm(len(labels), generator=self.generator)[:count].to(labels.device)
        steps = torch.randint(1, classes, (count,), generator=self.generator).to(labels.device)
        noisy = labels.clone()
        noisy[places] = ((labels[places].to(torch.int64) + steps) % classes).to(labels.dtype)
        return noisy
