"""Layers compute what torch's compute, to the last bit: the operations are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainctl.lessons import scratch

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def pair(in_features: int, out_features: int, bias: bool = True) -> tuple[Any, Any]:
    torch.manual_seed(0)
    ours = scratch.Linear(in_features, out_features, bias)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    theirs = nn.Linear(in_features, out_features, bias)
    assert torch.equal(torch.get_rng_state(), after)
    return ours, theirs


def gradients(outputs: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(9)
    return torch.autograd.grad(outputs, of, torch.randn_like(outputs))


@pytest.fixture(params=[torch.float32, torch.float64])
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def test_linear_starts_with_torchs_numbers_at_every_width(default_dtype: torch.dtype) -> None:
    """The bound's rounding depends on the width."""
    for width in range(1, 300):
        ours, theirs = pair(width, 2)
        assert ours.weight.dtype == default_dtype
        assert torch.equal(ours.weight, theirs.weight), width
        assert torch.equal(ours.bias, theirs.bias), width
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in ours.parameters())


@pytest.mark.parametrize(("size", "samples"), [((1, 1), 1), ((64, 10), 65)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_is_torchs_to_the_last_bit(
    size: tuple[int, int], samples: int, bias: bool, dtype: torch.dtype
) -> None:
    ours, theirs = pair(*size, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ours(torch.ones(samples, size[0])), theirs(torch.ones(samples, size[0])))
    theirs.to(dtype)
    for parameter in ours.parameters():
        parameter.data = parameter.data.to(dtype)
    inputs = torch.randn(samples, size[0], dtype=dtype, requires_grad=True)
    own, other = ours(inputs), theirs(inputs)
    assert torch.equal(own, other)
    for one, two in zip(
        gradients(own, inputs, *ours.parameters()),
        gradients(other, inputs, *theirs.parameters()),
        strict=True,
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_is_torchs_at_every_kind_of_number(dtype: torch.dtype) -> None:
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-30, -1e-30]
    inputs = torch.tensor([*special, *torch.randn(50).tolist()], dtype=dtype, requires_grad=True)
    own, other = scratch.ReLU()(inputs), nn.ReLU()(inputs)
    torch.testing.assert_close(own, other, rtol=0, atol=0, equal_nan=True)
    finite = ~inputs.isnan()
    assert torch.equal(gradients(own, inputs)[0][finite], gradients(other, inputs)[0][finite])


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_is_torchs_with_the_same_seed(p: float, dtype: torch.dtype) -> None:
    inputs = torch.randn(40, 30, dtype=dtype, requires_grad=True)
    results = []
    for layer in (scratch.Dropout(p), nn.Dropout(p)):
        torch.manual_seed(5)
        outputs = layer(inputs)
        results.append((outputs, torch.get_rng_state(), *gradients(outputs, inputs)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_dropout_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match="not a probability below 1"):
        scratch.Dropout(p)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4,), (0, 3, 2)])
def test_flatten_makes_one_row_a_sample(shape: tuple[int, ...]) -> None:
    inputs = torch.randn(shape)
    outputs = scratch.Flatten()(inputs)
    assert outputs.shape == (shape[0], math.prod(shape[1:]))
    assert torch.equal(outputs.flatten(), inputs.flatten())
    if len(shape) > 1:
        assert torch.equal(outputs, nn.Flatten()(inputs))


@pytest.mark.gpu
def test_layers_run_on_a_gpu() -> None:
    """Matrix products sum in another order there, so the results agree to some units in the last place."""
    layers = scratch.Sequential(scratch.Flatten(), scratch.Linear(6, 8), scratch.ReLU(), scratch.Linear(8, 2))
    inputs = torch.randn(5, 2, 3)
    expected = layers(inputs)
    torch.testing.assert_close(layers.to("cuda")(inputs.cuda()).cpu(), expected, rtol=1e-4, atol=1e-5)
    dropped = scratch.Dropout(0.5)(torch.ones(1000, device="cuda"))
    assert set(dropped.tolist()) == {0.0, 2.0}
