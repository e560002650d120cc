"""Losses: modules that turn outputs and targets into one number."""

from __future__ import annotations

import torch
from torch import Tensor

from trainctl.lessons.scratch.module import Module


class MeanSquaredError(Module):
    """The mean of (outputs - targets)² over all values of the batch.

    Shape: outputs and targets (N, …) → scalar. Raises ValueError if the shapes differ: broadcasting (N,)
    against (N, 1) would compare every sample with every other.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape != targets.shape:
            raise ValueError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} differ")
        return (outputs - targets).square().mean()


class CrossEntropy(Module):
    """The mean of -log softmax(outputs)[target] over the samples of the batch.

    log softmax(x) is x - log Σ exp(x). Each row's largest score is subtracted first, so that exp cannot
    overflow; the result is the same (Blanchard, Higham and Higham, Accurately computing the log-sum-exp and
    softmax functions, 2021).

    Shape: outputs (N, classes), targets (N,) int64 → scalar. Raises ValueError for other shapes, RuntimeError
    for a target that is not a class.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.dim() != 2 or outputs.shape[:1] != targets.shape:
            raise ValueError(
                f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}"
                " are not (N, classes) and (N,)"
            )
        # Half precision has too few digits for sums of exponentials.
        scores = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        # Detached: the shift changes neither the result nor the gradient.
        shifted = scores - scores.detach().max(dim=1, keepdim=True).values
        log_probabilities = shifted - shifted.exp().sum(dim=1, keepdim=True).log()
        return -log_probabilities.gather(1, targets.unsqueeze(1)).mean()
