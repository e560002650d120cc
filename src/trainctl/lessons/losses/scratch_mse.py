"""Mean squared error, from scratch."""

from __future__ import annotations

from trainctl.lessons import scratch
from trainctl.registry import LOSSES


@LOSSES.register("scratch_mse")
class ScratchMSE(scratch.MeanSquaredError):
    """Mean squared error over all values of the batch, in plain Python. See trainctl.lessons.scratch.

    Shape: outputs and targets (N, outputs) → scalar.
    """

    target = "value"
