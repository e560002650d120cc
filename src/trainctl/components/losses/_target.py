"""Losses of class numbers, and weights of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError


class ClassLoss(nn.Module):
    """Outputs (N, classes, …) against int64 class numbers (N, …), with optional weights of the classes.

    A weighted loss divides by the sum of its targets' weights, not by their number, and one of several
    targets a sample by the number of those that are not ignored; where all are, it is 0. ``batch_weight`` is
    the weight of a batch in a mean over batches.
    """

    target = "class"
    weight: Tensor | None
    ignore_index: int

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        rows, numbers = target_rows(outputs, targets)
        if targets.dim() == 1 or targets.is_floating_point():
            loss: Tensor = super().forward(rows, numbers)
        else:
            # Where nothing counts torch divides 0 by 0; here the loss is 0, and so is its gradient.
            counts = (numbers != self.ignore_index).any()
            loss = super().forward(rows, torch.where(counts, numbers, 0)) * counts
        return loss

    def batch_weight(self, targets: Tensor) -> float | Tensor:
        """The number of targets that are not ignored, or the sum of their classes' weights; torch divides by
        the number of samples where targets are shares of several classes."""
        if targets.is_floating_point():
            return len(targets)
        if targets.dim() > 1:
            counted = targets != self.ignore_index
            # Not waited for: a tensor.
            return (counted if self.weight is None else self.weight[targets.clamp(min=0)] * counted).sum()
        return len(targets) if self.weight is None else float(self.weight[targets].sum())


def target_rows(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets with a row for each target, where the outputs lie so in memory, as those of a model
    of sequences do: torch's kernel for rows is several times as fast as the one for (N, classes, …)."""
    if outputs.dim() > 2 and targets.dim() == outputs.dim() - 1:
        rows = outputs.movedim(1, -1)
        # That of a GPU for (N, classes, …) is not deterministic.
        if rows.is_contiguous() or torch.are_deterministic_algorithms_enabled():
            return rows.flatten(0, -2), targets.flatten()
    return outputs, targets


def class_weights(setting: Sequence[float] | str | None, class_counts: Tensor | None) -> Tensor | None:
    """The weight of each class, shape (classes,) float32, or None.

    ``balanced`` is samples / (classes × samples of the class), so that all classes have the same total weight
    (King and Zeng, Logistic Regression in Rare Events Data, 2001). Raises ConfigError unless there is one
    weight a class.
    """
    if setting is None:
        return None
    if class_counts is None:
        raise ConfigError(f"loss.class_weights={setting} requires data with classes")
    if isinstance(setting, str):
        present = class_counts.clamp(min=1)
        return (class_counts.sum() / (len(class_counts) * present)).to(torch.float32)
    if len(setting) != len(class_counts):
        raise ConfigError(
            f"loss.class_weights={list(setting)}: {len(setting)} weights for {len(class_counts)} classes",
            "give one weight a class, or loss.class_weights=balanced",
        )
    return torch.tensor(setting, dtype=torch.float32)
