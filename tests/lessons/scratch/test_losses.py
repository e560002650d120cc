"""Losses against torch's.

Cross-entropy is compared with a tolerance: torch has one fused kernel for log-softmax and one for the mean,
which sum in another order. The relative difference is some units in the last place: 1e-6 in float32, 1e-14 in
float64.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainctl.lessons import scratch
from trainctl.registry import protocols as protocol

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (64, 3), (1000, 7), (4, 2, 3)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mean_squared_error_is_torchs_to_the_last_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    outputs = torch.randn(shape, dtype=dtype, requires_grad=True)
    targets = torch.randn(shape, dtype=dtype)
    own, other = scratch.MeanSquaredError()(outputs, targets), nn.MSELoss()(outputs, targets)
    assert torch.equal(own, other)
    assert torch.equal(gradient(own, outputs), gradient(other, outputs))


def test_mean_squared_error_by_hand() -> None:
    loss = scratch.MeanSquaredError()(torch.tensor([[1.0], [5.0]]), torch.tensor([[3.0], [4.0]]))
    assert loss.item() == 2.5
    assert loss.shape == ()


@pytest.mark.parametrize(
    ("outputs", "targets"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 2), (1, 2)), ((3,), ())]
)
def test_mean_squared_error_refuses_to_broadcast(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="differ"):
        scratch.MeanSquaredError()(torch.ones(outputs), torch.ones(targets))


@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (64, 10), (100, 100), (7, 1000)])
@pytest.mark.parametrize("scale", [1, 10, 100])
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


def test_cross_entropy_by_hand() -> None:
    loss = scratch.CrossEntropy()(torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert loss.shape == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_does_not_overflow(dtype: torch.dtype) -> None:
    outputs = torch.tensor([[1e4, 0.0], [-1e4, 0.0], [1e30, 1e30]], dtype=dtype, requires_grad=True)
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
    ("outputs", "targets"),
    [((4, 3), (3,)), ((4, 3), (5,)), ((4, 3), (4, 1)), ((4,), (4,)), ((4, 3, 2), (4,))],
)
def test_cross_entropy_refuses_other_shapes(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"are not \(N, classes\) and \(N,\)"):
        scratch.CrossEntropy()(torch.ones(outputs), torch.zeros(targets, dtype=torch.int64))


@pytest.mark.parametrize("target", [3, -1])
def test_cross_entropy_refuses_what_is_no_class(target: int) -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        scratch.CrossEntropy()(torch.ones(1, 3), torch.tensor([target]))


@pytest.mark.parametrize("make", [scratch.MeanSquaredError, scratch.CrossEntropy])
def test_it_meets_the_protocol(make: Any) -> None:
    criterion = make()
    assert isinstance(criterion, protocol.Criterion)
    assert protocol.missing(protocol.Criterion, criterion) == []
    assert list(criterion.parameters()) == []
    assert criterion.to(torch.device("cpu")) is criterion
    assert type(copy.deepcopy(criterion)) is make


def test_a_hook_sees_the_loss() -> None:
    criterion, seen = scratch.MeanSquaredError(), []
    criterion.register_forward_hook(lambda module, inputs, loss: seen.append((len(inputs), loss.item())))
    criterion(torch.zeros(2, 1), torch.ones(2, 1))
    assert seen == [(2, 1.0)]
