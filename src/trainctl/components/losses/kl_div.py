"""Kullback-Leibler divergence."""

from __future__ import annotations

from torch import nn

from trainctl.registry import LOSSES


@LOSSES.register("kl_div")
class KLDiv(nn.KLDivLoss):
    """Kullback-Leibler divergence of the targets from the outputs, averaged over the samples.

    The model gives log-probabilities (LogSoftmax). The mean is over samples (``batchmean``), which is the
    divergence; torch's default also divides by the number of classes.

    Args:
        log_target: the targets are log-probabilities, like the outputs.

    Shape: outputs and targets (N, outputs) → scalar.
    """

    target = "shares"

    def __init__(self, log_target: bool = False) -> None:
        super().__init__(reduction="batchmean", log_target=log_target)
        self.output = "" if log_target else "log"
