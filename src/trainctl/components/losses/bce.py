"""Binary cross-entropy on probabilities."""

from __future__ import annotations

from torch import nn

from trainctl.registry import LOSSES


@LOSSES.register("bce")
class BCE(nn.BCELoss):
    """Mean binary cross-entropy; the model gives probabilities (Sigmoid). bce_with_logits is more stable.

    Shape: outputs and targets (N, outputs), both from 0 to 1 → scalar.
    """

    target = "binary"

    def __init__(self) -> None:
        super().__init__()
