"""Mean average precision."""

from __future__ import annotations

import torch
from torch import Tensor

from trainctl.registry import METRICS


@METRICS.register("map")
class MeanAveragePrecision:
    """The mean over the labels of their average precision, exact.

    The average precision of a label is the sum, over all thresholds, of the precision there times the recall
    that is gained there; samples of equal probability share a threshold. It is no interpolation (Zhu, Recall,
    Precision and Average Precision, 2004). A label that no sample of the split has is left out of the mean:
    its recall is not defined. NaN where none is left, or a probability is NaN.

    All probabilities of the split are kept on the device until the end.

    Shape: outputs (N, labels), probabilities; targets (N, labels), 0 or 1.
    """

    task = "multilabel"
    lower_is_better = False

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.outputs.append(outputs)
        self.targets.append(targets > 0)

    def merge(self, other: MeanAveragePrecision) -> None:
        self.outputs += other.outputs
        self.targets += other.targets

    def compute(self) -> float:
        if not self.outputs:
            return float("nan")
        outputs = torch.cat(self.outputs).cpu()
        targets = torch.cat(self.targets).cpu()
        if bool(outputs.isnan().any()):
            return float("nan")
        found = [
            _average_precision(outputs[:, label], targets[:, label])
            for label in range(outputs.shape[1])
            if bool(targets[:, label].any())
        ]
        return sum(found) / len(found) if found else float("nan")


def _average_precision(scores: Tensor, held: Tensor) -> float:
    ordered, order = scores.sort(descending=True)
    hits = held[order].cumsum(0).to(torch.float64)
    last = torch.ones_like(held)
    last[:-1] = ordered[1:] != ordered[:-1]
    hits, taken = hits[last], (torch.nonzero(last).flatten() + 1).to(torch.float64)
    gained = hits.diff(prepend=hits.new_zeros(1))
    return float((hits / taken * gained).sum() / hits[-1])
