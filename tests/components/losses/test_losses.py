"""Losses against their formula, and what they compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trainctl.components.losses.cross_entropy import CrossEntropy
from trainctl.registry import LOSSES


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_its_formula(smoothing: float) -> None:
    outputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(16) % 5
    logits = outputs.numpy().astype(np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    wanted = np.eye(5)[targets.numpy()] * (1 - smoothing) + smoothing / 5
    expected = -(wanted * log_probabilities).sum(1).mean()
    loss = CrossEntropy(label_smoothing=smoothing)(outputs, targets)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_mse_is_its_formula() -> None:
    outputs, targets = torch.randn(16, 3), torch.randn(16, 3)
    expected = ((outputs.double() - targets.double()) ** 2).mean().item()
    loss = LOSSES.load("mse")()(outputs, targets)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("ours", "stock", "targets"),
    [
        (CrossEntropy(), nn.CrossEntropyLoss(), torch.arange(8) % 3),
        (CrossEntropy(label_smoothing=0.2), nn.CrossEntropyLoss(label_smoothing=0.2), torch.arange(8) % 3),
        (LOSSES.load("mse")(), nn.MSELoss(), torch.ones(8, 3)),
    ],
    ids=["cross_entropy", "smoothed", "mse"],
)
def test_value_and_gradient_are_those_of_torch(
    ours: nn.Module, stock: nn.Module, targets: torch.Tensor
) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(8, 3, requires_grad=True)
    twin = outputs.detach().clone().requires_grad_()
    ours(outputs, targets).backward()
    stock(twin, targets).backward()
    assert torch.equal(ours(outputs, targets), stock(twin, targets))
    assert outputs.grad is not None
    assert twin.grad is not None
    assert torch.equal(outputs.grad, twin.grad)


@pytest.mark.parametrize(("name", "target"), [("cross_entropy", "class"), ("mse", "value")])
def test_a_loss_says_what_it_compares(name: str, target: str) -> None:
    assert LOSSES.load(name)().target == target


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_a_loss_has_nothing_to_train(name: str) -> None:
    assert not list(LOSSES.load(name)().parameters())
