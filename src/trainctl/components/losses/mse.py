"""Mean squared error."""

from __future__ import annotations

from torch import nn

from trainctl.components.losses._target import ValueLoss
from trainctl.registry import LOSSES


@LOSSES.register("mse")
class MSE(nn.MSELoss, ValueLoss):
    """Mean squared error over all values of the batch.

    Shape: outputs and targets (N, outputs) → scalar.
    """

    def __init__(self) -> None:
        super().__init__()
