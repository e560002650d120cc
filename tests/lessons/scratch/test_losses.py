"""Losses against torch's.

Cross-entropy is compared with a tolerance: torch has one fused kernel for log-softmax and one for the mean,
which sum in another order. The relative difference is some units in the last place: 1e-6 in float32, 1e-14 in
float64.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trainctl.lessons import scratch

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize("shape", [(1, 1), (1000, 7), (4, 2, 3)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mean_squared_error_is_torchs_to_the_last_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    outputs = torch.randn(shape, dtype=dtype, requires_grad=True)
    targets = torch.randn(shape, dtype=dtype)
    own, other = scratch.MeanSquaredError()(outputs, targets), nn.MSELoss()(outputs, targets)
    assert torch.equal(own, other)
    assert torch.equal(gradient(own, outputs), gradient(other, outputs))


@pytest.mark.parametrize(("outputs", "targets"), [((4, 1), (4,)), ((4, 2), (1, 2))])
def test_mean_squared_error_refuses_to_broadcast(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="differ"):
        scratch.MeanSquaredError()(torch.ones(outputs), torch.ones(targets))


@pytest.mark.parametrize(("samples", "classes", "scale"), [(1, 2, 1), (64, 10, 100), (7, 1000, 10)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cross_entropy_is_torchs(samples: int, classes: int, scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    outputs = (torch.randn(samples, classes, dtype=dtype) * scale).requires_grad_()
    targets = torch.randint(classes, (samples,))
    own, other = scratch.CrossEntropy()(outputs, targets), nn.CrossEntropyLoss()(outputs, targets)
    close = TOLERANCE[dtype]
    # A single sample of probability nearly 1 has a loss of nearly 0, which has no relative precision.
    torch.testing.assert_close(own, other, rtol=close, atol=close)
    # Gradients are differences of probabilities, which are at most 1.
    torch.testing.assert_close(gradient(own, outputs), gradient(other, outputs), rtol=0, atol=close)


def test_cross_entropy_does_not_overflow() -> None:
    outputs = torch.tensor([[1e4, 0.0], [-1e4, 0.0], [1e30, 1e30]], requires_grad=True)
    targets = torch.tensor([1, 0, 0])
    own, other = scratch.CrossEntropy()(outputs, targets), nn.CrossEntropyLoss()(outputs, targets)
    assert own.item() == pytest.approx((20000 + math.log(2)) / 3)
    assert torch.equal(own, other)
    torch.testing.assert_close(gradient(own, outputs), gradient(other, outputs))


def test_cross_entropy_takes_minus_infinity_and_passes_nan_on() -> None:
    outputs = torch.tensor([[0.0, -math.inf, 0.0]])
    assert scratch.CrossEntropy()(outputs, torch.tensor([0])).item() == pytest.approx(math.log(2))
    assert scratch.CrossEntropy()(outputs, torch.tensor([1])).item() == math.inf
    for bad in (math.nan, math.inf):
        assert scratch.CrossEntropy()(torch.tensor([[bad, 0.0]]), torch.tensor([0])).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cross_entropy_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    outputs, targets = torch.randn(50, 40).to(dtype), torch.randint(40, (50,))
    loss = scratch.CrossEntropy()(outputs, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nn.CrossEntropyLoss()(outputs.float(), targets), rtol=1e-6, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scratch.CrossEntropy()(outputs, targets), loss)


@pytest.mark.parametrize(
    ("outputs", "targets"), [((4, 3), (5,)), ((4, 3), (4, 1)), ((4,), (4,)), ((4, 3, 2), (4,))]
)
def test_cross_entropy_refuses_other_shapes(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"are not \(N, classes\) and \(N,\)"):
        scratch.CrossEntropy()(torch.ones(outputs), torch.zeros(targets, dtype=torch.int64))
