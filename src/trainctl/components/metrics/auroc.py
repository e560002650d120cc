"""Area under the ROC curve."""

from __future__ import annotations

import torch
from torch import Tensor

from trainctl.registry import METRICS


@METRICS.register("auroc")
class AUROC:
    """Area under the ROC curve, exact; with more than two classes the mean over each one against the rest.

    A class's area is the probability that one of its samples gets a higher score for it than a sample of
    another class, equal scores counting half (Hanley and McNeil, The Meaning and Use of the Area under a
    Receiver Operating Characteristic Curve, 1982). The score is the softmax of the outputs in float64; of two
    classes it is the difference of their outputs, and both have the same area, the usual binary one.

    A class is left out of the mean if the split has no sample of it, or no sample of another class: its area
    is not defined. If no class is left, or an output is NaN, the result is NaN.

    All outputs of the split are kept on the device until the end: N × classes float32.

    Shape: outputs (N, classes), targets (N,).
    """

    task = "classification"
    lower_is_better = False

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.outputs.append(outputs)
        self.targets.append(targets)

    def merge(self, other: AUROC) -> None:
        self.outputs += other.outputs
        self.targets += other.targets

    def compute(self) -> float:
        if not self.outputs:
            return float("nan")
        # Batch by batch, so that the scores are the only float64 copy.
        scores = torch.cat([_scores(outputs) for outputs in self.outputs])
        targets = torch.cat(self.targets).to(scores.device)
        if bool(scores.isnan().any()):
            return float("nan")
        areas = [_area(scores[:, number], targets == number) for number in range(scores.shape[1])]
        defined = [area for area in areas if area is not None]
        return sum(defined) / len(defined) if defined else float("nan")


def _scores(outputs: Tensor) -> Tensor:
    # MPS has no float64.
    outputs = (outputs.cpu() if outputs.device.type == "mps" else outputs).double()
    if outputs.shape[1] == 2:
        # The order of the probabilities, without the ties that come from rounding them to 1.
        difference = outputs.diff(dim=1)
        return torch.cat([-difference, difference], 1)
    return outputs.softmax(1)


def _area(scores: Tensor, positive: Tensor) -> float | None:
    """The share of (positive, negative) pairs in the right order, or None where there are none."""
    positives, negatives = scores[positive], scores[~positive].sort().values
    pairs = len(positives) * len(negatives)
    if not pairs:
        return None
    below = torch.searchsorted(negatives, positives)
    up_to = torch.searchsorted(negatives, positives, right=True)
    # Whole numbers up to here, so that nothing is rounded before the division.
    return int((below + up_to).sum()) / (2 * pairs)
