"""The linear model and the multilayer perceptron."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from trainctl.components.models.linear import Linear
from trainctl.components.models.mlp import MLP
from trainctl.registry import MODELS

SHAPES = [(5,), (1, 8, 8), (3, 4, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", [Linear, MLP])
def test_samples_are_flattened_and_every_parameter_learns(model: Any, shape: tuple[int, ...]) -> None:
    net = model(shape, 7)
    outputs = net(torch.randn(4, *shape))
    assert outputs.shape == (4, 7)
    outputs.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_linear_is_one_affine_map() -> None:
    net = Linear((2, 3), 4)
    inputs = torch.randn(5, 2, 3)
    expected = inputs.reshape(5, 6) @ net.linear.weight.T + net.linear.bias
    torch.testing.assert_close(net(inputs), expected)
    assert sum(parameter.numel() for parameter in net.parameters()) == 6 * 4 + 4


def test_linear_without_offset() -> None:
    net = Linear((6,), 4, bias=False)
    assert not net(torch.zeros(1, 6)).any()
    assert sum(parameter.numel() for parameter in net.parameters()) == 24


@pytest.mark.parametrize("hidden", [[], [3], [16, 8], [4, 4, 4]])
@pytest.mark.parametrize(("normalization", "extra"), [("none", 0), ("batch", 2), ("layer", 2)])
def test_mlp_has_the_sizes_it_was_given(hidden: list[int], normalization: Any, extra: int) -> None:
    net = MLP((6,), 5, hidden, normalization=normalization)
    sizes = [6, *hidden, 5]
    expected = sum(before * after + after for before, after in pairwise(sizes))
    assert sum(parameter.numel() for parameter in net.parameters()) == expected + extra * sum(hidden)


ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "elu": lambda x: torch.where(x > 0, x, torch.exp(x) - 1),
}


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_mlp_is_linear_activation_linear(activation: Any) -> None:
    net = MLP((6,), 2, [9], activation)
    first, last = (each for each in net.modules() if isinstance(each, nn.Linear))
    inputs = torch.randn(7, 6)
    hidden = ACTIVATIONS[activation](inputs @ first.weight.T + first.bias)
    torch.testing.assert_close(net(inputs), hidden @ last.weight.T + last.bias, rtol=1e-5, atol=1e-6)


def test_every_activation_a_config_may_name_is_tested_here() -> None:
    (parameter,) = [each for each in MODELS.signature("mlp").parameters if each.name == "activation"]
    assert set(parameter.annotation.__args__) == set(ACTIVATIONS)


def test_normalization_comes_before_the_activation() -> None:
    net = MLP((6,), 2, [9], normalization="layer")
    kinds = [type(each) for each in net.modules()]
    assert kinds.index(nn.Linear) < kinds.index(nn.LayerNorm) < kinds.index(nn.ReLU)


def test_dropout_acts_in_training_only() -> None:
    net = MLP((6,), 2, [64], dropout=0.5)
    inputs = torch.randn(3, 6)
    assert not torch.equal(net(inputs), net(inputs))
    net.eval()
    assert torch.equal(net(inputs), net(inputs))
    assert not any(isinstance(each, nn.Dropout) for each in MLP((6,), 2, [64]).modules())


def test_the_defaults_survive_their_use() -> None:
    before = MODELS.signature("mlp")
    defaults = copy.deepcopy([parameter.default for parameter in before.parameters])
    MLP((6,), 2)
    assert [parameter.default for parameter in MODELS.signature("mlp").parameters] == defaults
