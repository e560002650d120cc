"""What a loss compares the model's outputs with."""

from __future__ import annotations

from torch import nn


class ClassNumberLoss(nn.Module):
    """Outputs (N, classes) against int64 class numbers (N,)."""

    target = "class"


class ValueLoss(nn.Module):
    """Outputs and float targets of one and the same shape."""

    target = "value"
