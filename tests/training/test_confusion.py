"""The counts behind the confusion matrix."""

from __future__ import annotations

import pytest
import torch

from trainctl.training.artifacts import Confusion


def test_counts_are_exact_for_batches_of_any_size() -> None:
    outputs, targets = torch.randn(101, 4), torch.randint(4, (101,))
    confusion = Confusion(4)
    for start, end in ((0, 1), (1, 40), (40, 101)):
        confusion.update(outputs[start:end], targets[start:end])
    expected = [[0] * 4 for _ in range(4)]
    for predicted, true in zip(outputs.argmax(1).tolist(), targets.tolist(), strict=True):
        expected[true][predicted] += 1
    assert confusion.counts == expected
    assert confusion.compute() == {}


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2), (5,)])
def test_what_cannot_be_counted_is_let_be(shape: tuple[int, ...]) -> None:
    confusion = Confusion(2)
    confusion.update(torch.zeros(shape), torch.zeros(5, dtype=torch.int64))
    assert confusion.counts is None
    assert Confusion(100_000).counts is None
