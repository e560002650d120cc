"""Cross-entropy, from scratch."""

from __future__ import annotations

from trainctl.lessons import scratch
from trainctl.registry import LOSSES


@LOSSES.register("scratch_cross_entropy")
class ScratchCrossEntropy(scratch.CrossEntropy):
    """Mean cross-entropy of softmax(outputs) against class numbers, in plain Python.

    See trainctl.lessons.scratch.

    Shape: outputs (N, classes), targets (N,) int64 → scalar.
    """

    target = "class"
