"""Binary cross-entropy on logits."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainctl.errors import ConfigError
from trainctl.registry import LOSSES, Positive, Probability


@LOSSES.register("bce_with_logits")
class BCEWithLogits(nn.BCEWithLogitsLoss):
    """Mean binary cross-entropy of sigmoid(outputs), computed from the logits.

    Args:
        pos_weight: what a positive target counts for, one number an output; balanced: of labels, the samples
            without each divided by those with it, so that both weigh the same.
        label_smoothing: share of each target that is 0.5 instead.

    Shape: outputs and targets (N, outputs), targets from 0 to 1 → scalar.
    """

    target = "binary"
    output = "logit"

    def __init__(
        self,
        class_counts: Tensor | None = None,
        pos_weight: list[Positive] | Literal["balanced"] | None = None,
        label_smoothing: Probability = 0.0,
    ) -> None:
        super().__init__(pos_weight=_weights(pos_weight, class_counts))
        self.label_smoothing = label_smoothing

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return super().forward(outputs, targets)


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
