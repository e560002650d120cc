"""Counts of labels: the base of the metrics of multi-label classification."""

from __future__ import annotations

import torch
from torch import Tensor


class LabelCounts:
    """Three counts a label: correct predictions, samples that have it, and predictions of it.

    A label is predicted where its probability is at least ``threshold``.
    """

    task = "multilabel"
    lower_is_better = False

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.counts: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        predicted, held = outputs >= self.threshold, targets > 0
        counts = torch.stack([(predicted & held).sum(0), held.sum(0), predicted.sum(0)])
        self.counts = counts if self.counts is None else self.counts + counts

    def merge(self, other: LabelCounts) -> None:
        if other.counts is not None:
            self.counts = other.counts.clone() if self.counts is None else self.counts + other.counts

    def counted(self) -> list[tuple[int, int, int]]:
        """Correct predictions, samples and predictions of each label."""
        return [] if self.counts is None else [tuple(each) for each in self.counts.T.tolist()]
