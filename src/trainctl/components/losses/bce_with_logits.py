"""Binary cross-entropy on logits."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from trainctl.components.losses._target import class_weights as weights_of
from trainctl.errors import ConfigError
from trainctl.registry import LOSSES, TASKS, Positive, Probability


@LOSSES.register("bce_with_logits")
class BCEWithLogits(nn.BCEWithLogitsLoss):
    """Mean binary cross-entropy of sigmoid(outputs), computed from the logits.

    Args:
        pos_weight: what a positive target counts for, one number an output; balanced: of labels, the samples
            without each divided by those with it, so that both weigh the same.
        label_smoothing: share of each target that is 0.5 instead.
        class_weights: of classes in an order, one weight a class, or balanced: the rarer a class, the more
            its samples count. The loss of a batch, and its weight in a mean over batches, is by their sum.

    Shape: outputs and targets (N, outputs), targets from 0 to 1 → scalar.
    """

    target = "binary"
    output = "logit"
    class_weights: Tensor | None

    def __init__(
        self,
        class_counts: Tensor | None = None,
        pos_weight: list[Positive] | Literal["balanced"] | None = None,
        label_smoothing: Probability = 0.0,
        class_weights: list[Positive] | Literal["balanced"] | None = None,
        task: str = "",
    ) -> None:
        weights = _of_classes(class_weights, class_counts, task)
        super().__init__(
            pos_weight=_weights(pos_weight, class_counts), reduction="mean" if weights is None else "none"
        )
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", weights)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        given = targets
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        loss: Tensor = super().forward(outputs, targets)
        if self.class_weights is None:
            return loss
        weights = _of_samples(self.class_weights, given)
        return (loss.mean(1) * weights).sum() / weights.sum()

    def batch_weight(self, targets: Tensor) -> float | Tensor:
        """The number of samples, or the sum of their classes' weights."""
        if self.class_weights is None:
            return len(targets)
        return _of_samples(self.class_weights, targets).sum()


def _of_samples(weights: Tensor, targets: Tensor) -> Tensor:
    """The weight of each sample (N,), whose ``targets`` (N, classes - 1) say whether it is of each class or
    above; of mixed samples the mean of their weights."""
    within = pad(pad(targets, (1, 0), value=1.0), (0, 1))
    return (within[:, :-1] - within[:, 1:]) @ weights


def _of_classes(setting: list[float] | str | None, counts: Tensor | None, task: str) -> Tensor | None:
    """The weight of each class, (classes,) float32, or None. ``counts``, (2, classes - 1): of each class or
    above, and below it."""
    if setting is None:
        return None
    of_task: Any = TASKS.load(task) if task else None
    if counts is None or not (of_task and of_task.ordered):
        raise ConfigError(
            f"loss.class_weights={setting}: a sample of {task} is not of one class",
            "weigh labels: loss=bce_with_logits loss.pos_weight=balanced",
        )
    return weights_of(setting, -torch.cat([counts.sum(0)[:1], counts[0]]).diff(append=counts.new_zeros(1)))


def _weights(setting: list[float] | str | None, counts: Tensor | None) -> Tensor | None:
    """The weight of each label, (labels,) float32, or None. ``counts``, (2, labels): with it, and without."""
    if isinstance(setting, str):
        if counts is None or counts.dim() != 2:
            raise ConfigError(
                f"loss.pos_weight={setting} requires labels, as of dataset.task=multilabel",
                "give one number an output",
            )
        weights: Tensor = counts[1].clamp(min=1) / counts[0].clamp(min=1)
        return weights.to(torch.float32)
    return None if setting is None else torch.tensor(setting, dtype=torch.float32)
