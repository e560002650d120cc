"""Each optimizer is torch's own, bit for bit, without the compiler's imports."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainctl.components.optimizers._lean import has_fused, lean, make
from trainctl.registry import OPTIMIZERS

CASES: list[Any] = [
    pytest.param(name, arguments, stock, {**fixed, **arguments}, id=f"{name}-{number}")
    for name, stock, fixed, variants in [
        ("sgd", torch.optim.SGD, {"lr": 0.1}, [{}, {"lr": 0.03, "weight_decay": 0.01}]),
        (
            "sgd_momentum",
            torch.optim.SGD,
            {"lr": 0.05, "momentum": 0.9},
            [{}, {"lr": 0.01, "momentum": 0.5}, {"nesterov": True, "weight_decay": 0.1}],
        ),
        (
            "adam",
            torch.optim.Adam,
            {"lr": 0.001},
            [{}, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}, {"amsgrad": True, "weight_decay": 0.1}],
        ),
        (
            "adamw",
            torch.optim.AdamW,
            {"lr": 0.001, "weight_decay": 0.01},
            [{}, {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.3}, {"amsgrad": True}],
        ),
    ]
    for number, arguments in enumerate(variants)
]
NAMES = ["sgd", "sgd_momentum", "adam", "adamw"]


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)


def train(model: nn.Module, optimizer: Optimizer, steps: int, first: int = 0) -> None:
    dtype = next(model.parameters()).dtype
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(6, 5, generator=generator).to(dtype)
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def build(name: str, model: nn.Module, **arguments: Any) -> Optimizer:
    optimizer = OPTIMIZERS.load(name)(model.parameters(), **arguments)
    assert isinstance(optimizer, Optimizer)
    return optimizer


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_what_is_tested_here_ships() -> None:
    assert {case.values[0] for case in CASES} == set(NAMES) <= set(OPTIMIZERS.names())


@pytest.mark.parametrize(("name", "arguments", "stock", "same"), CASES)
@pytest.mark.parametrize("fused", [None, True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_steps_as_torchs_own(
    name: str,
    arguments: dict[str, Any],
    stock: type,
    same: dict[str, Any],
    fused: bool | None,
    dtype: torch.dtype,
) -> None:
    ours, theirs = network(dtype), network(dtype)
    chosen = build(name, ours, **arguments, fused=fused)
    train(ours, chosen, 5)
    train(theirs, stock(theirs.parameters(), **same, fused=fused is not False), 5)
    assert equal(ours, theirs)
    assert not equal(ours, network(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_fused_is_chosen_where_the_device_has_it(name: str) -> None:
    assert build(name, network()).param_groups[0]["fused"] is True
    assert build(name, network(), fused=False).param_groups[0]["fused"] is False


def test_fused_needs_floating_point_parameters() -> None:
    assert has_fused([torch.zeros(2), torch.zeros(2, dtype=torch.float64)])
    assert not has_fused([torch.zeros(2), torch.zeros(2, dtype=torch.complex64)])
    assert not has_fused([torch.zeros(2, device="meta")])


@pytest.mark.parametrize(
    ("name", "stock"),
    [
        ("sgd", torch.optim.SGD),
        ("sgd_momentum", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
    ],
)
def test_it_is_torchs_class_by_type_name_and_text(name: str, stock: type) -> None:
    optimizer = build(name, network())
    assert isinstance(optimizer, stock)
    assert type(optimizer).__name__ == stock.__name__
    assert type(optimizer).__module__ == stock.__module__
    assert repr(optimizer).startswith(stock.__name__ + " (")


@pytest.mark.parametrize("name", NAMES)
def test_hooks_run_around_each_step(name: str) -> None:
    events: list[str] = []
    model = network()
    optimizer = build(name, model)
    optimizer.register_step_pre_hook(lambda *_: events.append("before"))
    optimizer.register_step_post_hook(lambda *_: events.append("after"))
    train(model, optimizer, 2)
    assert events == ["before", "after"] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_pre_hook_changes_what_the_step_sees(name: str) -> None:
    def zero(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.zero_()

    model = network()
    optimizer = build(name, model, weight_decay=0.0)
    optimizer.register_step_pre_hook(zero)
    train(model, optimizer, 2)
    assert equal(model, network())


@pytest.mark.parametrize("name", NAMES)
def test_schedulers_work(name: str) -> None:
    model = network()
    optimizer = build(name, model, lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    rates = []
    for step in range(5):
        train(model, optimizer, 1, step)
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])


@pytest.mark.parametrize(("name", "arguments", "stock", "same"), CASES)
def test_a_state_dict_round_trips_also_through_torchs_own_class(
    name: str, arguments: dict[str, Any], stock: type, same: dict[str, Any]
) -> None:
    whole = network()
    train(whole, build(name, whole, **arguments), 7)

    part = network()
    first = build(name, part, **arguments)
    train(part, first, 3)
    saved = copy.deepcopy(first.state_dict())
    for make_other in (lambda model: build(name, model), lambda model: stock(model.parameters(), **same)):
        twin = copy.deepcopy(part)
        other = make_other(twin)
        other.load_state_dict(copy.deepcopy(saved))
        train(twin, other, 4, first=3)
        assert equal(twin, whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_trains_on_its_own(name: str) -> None:
    model = network()
    optimizer = build(name, model)
    train(model, optimizer, 2)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    train(twin, twin_optimizer, 2, first=2)
    assert not equal(twin, model)
    train(model, optimizer, 2, first=2)
    assert equal(twin, model)


@pytest.mark.parametrize("name", NAMES)
def test_a_closure_and_a_second_group_work(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS.load(name)(model[0].parameters())  # type: ignore[operator, index]
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.0, "weight_decay": 0.0})  # type: ignore[index]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.ones(3, 5)).square().mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.requires_grad
    fresh = network()
    assert not torch.equal(model[0].weight, fresh[0].weight)  # type: ignore[index]
    assert torch.equal(model[2].weight, fresh[2].weight)  # type: ignore[index]
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_without_a_decorator_stays_as_it_is() -> None:
    class Own(Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.fill_(7)

    parameter = nn.Parameter(torch.zeros(2))
    lean(Own)([parameter]).step()  # type: ignore[call-arg]
    assert parameter.tolist() == [7, 7]


def test_parameters_may_come_from_a_generator() -> None:
    model = network()
    optimizer = make(torch.optim.SGD, (each for each in model.parameters()), lr=0.1)
    assert len(optimizer.param_groups[0]["params"]) == 4


def test_steps_import_no_compiler() -> None:
    program = """
import sys, torch
from trainctl.registry import OPTIMIZERS
for name in ("sgd", "sgd_momentum", "adam", "adamw"):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS.load(name)([parameter])
    for _ in range(2):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
assert not {"torch._dynamo", "sympy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
