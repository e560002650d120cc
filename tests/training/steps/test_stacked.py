"""The stacked step: each model takes the step that it takes on its own."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainctl.training.loop import train_step
from trainctl.training.runtime import precision_context
from trainctl.training.steps.stack import Stack
from trainctl.training.steps.stacked import StackedOptimizer, stacked_step, why_not

PLAIN = precision_context("fp32", torch.device("cpu"))


class Residual(nn.Module):
    """Linear layers one after the other, with something between them that no layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.second(inputs + self.first(inputs).relu())
        return outputs


def chain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4, bias=False))


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.0), nn.Linear(8, 4))


def models(make: Callable[[], nn.Module], count: int = 3) -> list[nn.Module]:
    return [make() for _ in range(count)]


def batch(count: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 10, 6), torch.randint(0, 4, (count, 10))


@pytest.mark.parametrize(("make", "linked"), [(chain, True), (normalized, False), (Residual, False)])
@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]), label_smoothing=0.1),
        nn.NLLLoss(),
    ],
    ids=str,
)
def test_each_model_takes_its_own_step(
    make: Callable[[], nn.Module], linked: bool, criterion: nn.Module
) -> None:
    torch.manual_seed(0)
    together = models(make)
    alone = copy.deepcopy(together)
    rates = (0.01, 0.01, 0.1)
    optimizers, singles = (
        [
            torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, fused=True)
            for model, lr in zip(each, rates, strict=True)
        ]
        for each in (together, alone)
    )
    stack = Stack(together, criterion, torch.randn(2, 6))
    assert (stack._chain is not None) == linked
    optimizer = StackedOptimizer(stack, together, optimizers)
    assert optimizer.sharing == [(0, 2), (2, 1)]
    for _ in range(5):
        inputs, targets = batch()
        losses = stacked_step(stack, optimizer, inputs, targets)
        for row, (model, single) in enumerate(zip(alone, singles, strict=True)):
            loss = train_step(model, criterion, single, inputs[row], targets[row], PLAIN)
            assert losses[row].item() == pytest.approx(loss.item(), rel=1e-5)
    for model, single, own, theirs in zip(together, alone, optimizers, singles, strict=True):
        for name, tensor in single.state_dict().items():
            assert torch.allclose(model.state_dict()[name], tensor, atol=1e-5)
        # The state of each one's own optimizer is up to date, and like the one it would have.
        state, wanted = own.state_dict(), theirs.state_dict()
        assert state["param_groups"] == wanted["param_groups"]
        for number, moments in wanted["state"].items():
            assert torch.allclose(
                state["state"][number]["momentum_buffer"], moments["momentum_buffer"], atol=1e-5
            )


def test_a_model_that_is_released_goes_its_own_way() -> None:
    together = models(chain, 2)
    optimizers = [torch.optim.Adam(model.parameters(), fused=True) for model in together]
    stack = Stack(together, nn.CrossEntropyLoss())
    optimizer = StackedOptimizer(stack, together, optimizers)
    stack.release(together[0])
    optimizer.release(optimizers[0])
    before: Any = copy.deepcopy((together[0].state_dict(), optimizers[0].state_dict()))
    stacked_step(stack, optimizer, *batch(2))
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in together[0].state_dict().items())
    assert float(optimizers[0].state_dict()["state"][0]["step"]) == 0
    assert float(optimizers[1].state_dict()["state"][0]["step"]) == 1


def test_what_cannot_be_stacked_has_a_reason() -> None:
    parameters = [nn.Parameter(torch.zeros(1))]
    assert why_not(torch.optim.AdamW(parameters)) is None
    assert "RMSprop" in str(why_not(torch.optim.RMSprop(parameters)))
    assert "amsgrad" in str(why_not(torch.optim.Adam(parameters, amsgrad=True)))


@pytest.mark.slow
def test_the_compiler_stays_out() -> None:
    program = """
import sys, torch
from torch import nn
from trainctl.components.optimizers._lean import make
from trainctl.training.steps.stack import Stack
from trainctl.training.steps.stacked import StackedOptimizer, stacked_step
models = [nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)) for _ in range(2)]
optimizers = [make(torch.optim.Adam, model.parameters()) for model in models]
stack = Stack(models, nn.CrossEntropyLoss(), torch.randn(2, 6))
optimizer = StackedOptimizer(stack, models, optimizers)
stacked_step(stack, optimizer, torch.randn(2, 5, 6), torch.zeros(2, 5).long())
assert not {"torch._dynamo", "sympy"} & set(sys.modules), "the compiler was imported"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
