"""Perplexity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainctl.components.losses._target import target_rows
from trainctl.components.tasks.language_model import IGNORED
from trainctl.data.readout import wide
from trainctl.registry import METRICS


@METRICS.register("perplexity")
class Perplexity:
    """The exponential of the mean negative log-likelihood of a token, over all tokens that are not ignored.

    It is how many tokens a model that guesses evenly would choose among to be as surprised (Jelinek, Mercer,
    Bahl and Baker, Perplexity: a Measure of the Difficulty of Speech Recognition Tasks, 1977). NaN where all
    tokens are ignored.

    Shape: outputs (N, vocabulary, …), targets (N, …), -100 for a token that is ignored.
    """

    task = "language_model"
    lower_is_better = True

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        rows, tokens = target_rows(outputs, targets)
        total = cross_entropy(rows, tokens, reduction="none", ignore_index=IGNORED).sum(
            dtype=wide(rows.device)
        )
        self._add(total, (tokens != IGNORED).sum())

    def merge(self, other: Perplexity) -> None:
        if other.total is not None and other.count is not None:
            self._add(other.total, other.count)

    def _add(self, total: Tensor, count: Tensor) -> None:
        self.total = total if self.total is None else self.total + total
        self.count = count if self.count is None else self.count + count

    def compute(self) -> float:
        if self.total is None or self.count is None or not int(self.count):
            return float("nan")
        return float(torch.exp(self.total / self.count))
