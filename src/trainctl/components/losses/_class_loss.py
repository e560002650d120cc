"""The base of losses of class numbers, with optional weights of the classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError


class ClassLoss(nn.Module):
    """Outputs (N, classes) against int64 class numbers (N,)."""

    target = "class"
    weight: Tensor | None

    def batch_weight(self, targets: Tensor) -> float:
        """The divisor of the batch's mean: the number of samples, or the sum of their classes' weights."""
        return len(targets) if self.weight is None else float(self.weight[targets].sum())


def weights_of(setting: Sequence[float] | str | None, class_counts: Tensor | None) -> Tensor | None:
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
        return class_counts.sum() / (len(class_counts) * class_counts.clamp(min=1))
    if len(setting) != len(class_counts):
        raise ConfigError(
            f"loss.class_weights={list(setting)}: {len(setting)} weights for {len(class_counts)} classes",
            "give one weight a class, or loss.class_weights=balanced",
        )
    return torch.tensor(setting, dtype=torch.float32)
