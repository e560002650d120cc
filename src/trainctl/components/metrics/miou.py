"""Mean intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor

from trainctl.components.metrics._base import ClassCounts
from trainctl.registry import METRICS


@METRICS.register("miou")
class MeanIntersectionOverUnion(ClassCounts):
    """Of a class's pixels and those predicted as it, the share that is both; the mean over the classes.

    Counted over all pixels of the split, not image by image (Everingham et al., The Pascal Visual Object
    Classes Challenge: A Retrospective, 2015). A class that no pixel has and none is predicted as is left out
    of the mean; NaN where none is left. A pixel whose target is below 0 is ignored.

    Shape: outputs (N, classes, …), of which the largest is the predicted class; targets (N, …) int64.
    """

    task = "segmentation"

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        if self.counts is None:
            self.counts = torch.zeros(3, self.output_size, dtype=torch.int64, device=outputs.device)
        predicted, counted = outputs.argmax(1).flatten(), (targets >= 0).flatten()
        true, one = targets.flatten().clamp(min=0), counted.to(torch.int64)
        # bincount would wait for the device to learn how many classes there are.
        self.counts[0].index_add_(0, true, ((predicted == true) & counted).to(torch.int64))
        self.counts[1].index_add_(0, true, one)
        self.counts[2].index_add_(0, predicted, one)

    def compute(self) -> float:
        counted = zip(*self.counted(), strict=True)
        found = [right / (held + taken - right) for right, held, taken in counted if held + taken]
        return sum(found) / len(found) if found else float("nan")
