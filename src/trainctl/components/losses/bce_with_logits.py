"""Binary cross-entropy on logits."""

from __future__ import annotations

import torch
from torch import nn

from trainctl.registry import LOSSES, Positive


@LOSSES.register("bce_with_logits")
class BCEWithLogits(nn.BCEWithLogitsLoss):
    """Mean binary cross-entropy of sigmoid(outputs), computed from the logits.

    Args:
        pos_weight: what a positive target counts for, one number an output.

    Shape: outputs and targets (N, outputs), targets from 0 to 1 → scalar.
    """

    target = "binary"
    output = "logit"

    def __init__(self, pos_weight: list[Positive] | None = None) -> None:
        super().__init__(pos_weight=None if pos_weight is None else torch.tensor(pos_weight))
