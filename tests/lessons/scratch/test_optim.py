"""Optimizers step as torch's to the last bit, where torch takes tensors one by one (``foreach=False``)."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainctl.lessons import scratch

CASES: list[Any] = [
    pytest.param(scratch.SGD, torch.optim.SGD, {"lr": 0.1}, id="sgd"),
    pytest.param(scratch.SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}, id="momentum"),
    pytest.param(scratch.Adam, torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}, id="adam"),
]
OURS = pytest.mark.parametrize(
    ("make", "arguments"), [pytest.param(case.values[0], case.values[2], id=case.id) for case in CASES]
)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)


def train(model: Any, optimizer: Any, steps: int, first: int = 0) -> None:
    dtype = next(model.parameters()).dtype
    for step in range(first, first + steps):
        inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(step)).to(dtype)
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def equal(first: Any, second: Any) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("make", "stock", "arguments"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_steps_as_torchs_to_the_last_bit_with_settings_a_group(
    make: Any, stock: Any, arguments: dict[str, Any], dtype: torch.dtype
) -> None:
    results = []
    for kind, more in ((make, {}), (stock, {"foreach": False})):
        model: Any = network(dtype)
        groups = [
            {"params": model[0].parameters()},
            {"params": [model[2].weight], "lr": 0.02},
            {"params": model[2].bias, "lr": 0.0, "weight_decay": 0.0},
        ]
        optimizer = kind(groups, **arguments, **more)
        assert [group["lr"] for group in optimizer.param_groups] == [arguments["lr"], 0.02, 0.0]
        train(model, optimizer, 20)
        assert torch.equal(model[2].bias, network(dtype)[2].bias)  # type: ignore[index]
        results.append(model)
    assert equal(*results)
    assert not equal(results[0], network(dtype))


def test_momentum_is_no_window_into_the_gradient() -> None:
    parameter = torch.tensor([0.0], requires_grad=True)
    optimizer = scratch.SGD([parameter], lr=1.0, momentum=0.5)
    parameter.grad = torch.ones(1)
    optimizer.step()
    parameter.grad.fill_(4.0)
    optimizer.step()
    # v is 1, then 0.5 + 4
    assert parameter.item() == -5.5


def test_a_group_can_be_added_later_and_a_setting_changed() -> None:
    model: Any = network()
    optimizer = scratch.SGD(model[0].parameters(), lr=0.1)
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5})
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.0, 0.0]
    before = copy.deepcopy(model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 1)
    assert equal(model, before)
    assert optimizer.defaults["lr"] == 0.1


@pytest.mark.parametrize(("which", "message"), [([], "no parameters"), ([0, 0], "twice")])
def test_no_parameters_and_one_that_comes_twice_are_refused(which: list[int], message: str) -> None:
    parameters = [torch.ones(1, requires_grad=True)]
    with pytest.raises(ValueError, match=message):
        scratch.SGD(parameters[number] for number in which)


def test_a_parameter_of_another_group_is_refused() -> None:
    parameter, other = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="twice"):
        scratch.SGD([{"params": [parameter]}, {"params": [other, parameter]}])


@OURS
def test_a_parameter_without_gradient_is_left_alone(make: Any, arguments: dict[str, Any]) -> None:
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = make([used, unused], **arguments)
    used.square().sum().backward()
    optimizer.step()
    assert unused.tolist() == [1, 1]
    assert unused not in optimizer.state
    assert used.tolist() != [1, 1]


@OURS
def test_a_step_keeps_gradients_and_leaves_no_graph(make: Any, arguments: dict[str, Any]) -> None:
    parameter = torch.ones(3, requires_grad=True)
    optimizer = make([parameter], **arguments)
    for _ in range(2):
        parameter.grad = torch.full((3,), 2.0)
        optimizer.step()
        assert parameter.grad.tolist() == [2, 2, 2]
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert not any(
            value.requires_grad
            for value in optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor)
        )
    assert torch.is_grad_enabled()
    optimizer.zero_grad()
    assert parameter.grad is None


def test_pre_hooks_change_what_a_step_sees_until_they_are_removed() -> None:
    seen: list[Any] = []

    def zero(optimizer: Any, args: Any, kwargs: Any) -> None:
        seen.append((optimizer, args, kwargs))
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.zero_()

    model = network()
    optimizer = scratch.SGD(model.parameters())
    handle = optimizer.register_step_pre_hook(zero)
    train(model, optimizer, 2)
    assert equal(model, network())
    assert seen == [(optimizer, (), {})] * 2
    handle.remove()
    train(model, optimizer, 1)
    assert not equal(model, network())
    assert len(seen) == 2


@OURS
def test_a_state_goes_on_to_the_last_bit(make: Any, arguments: dict[str, Any]) -> None:
    whole = network()
    train(whole, make(whole.parameters(), **arguments), 9)

    part = network()
    first = make(part.parameters(), **arguments)
    train(part, first, 4)
    file = io.BytesIO()
    torch.save({"model": part.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    # The second time shows that what is loaded is a copy.
    for _ in range(2):
        fresh = network()
        fresh.load_state_dict(stored["model"])
        other = make(fresh.parameters(), lr=123.0)
        other.load_state_dict(stored["optimizer"])
        assert other.param_groups[0]["lr"] == arguments["lr"]
        train(fresh, other, 5, first=4)
        assert equal(fresh, whole)
    assert not equal(fresh, part)


@pytest.mark.parametrize(("make", "stock", "arguments"), CASES)
def test_it_goes_on_from_torchs_state(make: Any, stock: Any, arguments: dict[str, Any]) -> None:
    model = network()
    first = stock(model.parameters(), **arguments, foreach=False)
    train(model, first, 4)
    twin = copy.deepcopy(model)
    other = make(twin.parameters())
    other.load_state_dict(first.state_dict())
    train(twin, other, 3, first=4)
    train(model, first, 3, first=4)
    assert equal(model, twin)


def test_a_state_of_other_groups_is_refused() -> None:
    model: Any = network()
    optimizer = scratch.SGD(model.parameters())
    with pytest.raises(ValueError, match=r"groups of \[2\] parameters, this optimizer groups of \[4\]"):
        optimizer.load_state_dict(scratch.SGD(model[0].parameters()).state_dict())
    two = scratch.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}])
    with pytest.raises(ValueError, match=r"groups of \[2, 2\]"):
        optimizer.load_state_dict(two.state_dict())


@OURS
def test_a_copy_trains_on_its_own(make: Any, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = scratch.Sequential(scratch.Linear(5, 8), scratch.ReLU(), scratch.Linear(8, 2))
    optimizer = make(model.parameters(), **arguments)
    train(model, optimizer, 3)
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    held = [parameter for group in twin_optimizer.param_groups for parameter in group["params"]]
    assert all(one is other for one, other in zip(held, twin.parameters(), strict=True))
    assert set(twin_optimizer.state) <= set(held)
    train(twin, twin_optimizer, 3, first=3)
    assert not equal(twin, model)
    train(model, optimizer, 3, first=3)
    assert equal(twin, model)


@pytest.mark.gpu
@OURS
def test_a_state_follows_its_parameters_to_a_gpu(make: Any, arguments: dict[str, Any]) -> None:
    model = network()
    optimizer = make(model.parameters(), **arguments)
    train(model, optimizer, 2)
    there = copy.deepcopy(model).to("cuda")
    other = make(there.parameters(), **arguments)
    other.load_state_dict(optimizer.state_dict())
    for parameter, state in other.state.items():
        assert all(value.device == parameter.device for value in state.values() if isinstance(value, Tensor))
    for parameter in there.parameters():
        parameter.grad = torch.ones_like(parameter)
    other.step()
