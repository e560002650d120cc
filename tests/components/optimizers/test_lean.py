"""Optimizers give torch's results, bit for bit, without the compiler's imports; fused, by direct calls."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trainctl.components.optimizers._lean import lean, make, stock_classes
from trainctl.registry import OPTIMIZERS

OPTIONS: list[tuple[str, dict[str, Any], type[Optimizer], dict[str, Any]]] = [
    ("sgd", {}, SGD, {"lr": 0.1}),
    ("sgd", {"lr": 0.03, "weight_decay": 0.01}, SGD, {}),
    ("sgd_momentum", {}, SGD, {"lr": 0.05, "momentum": 0.9}),
    ("sgd_momentum", {"lr": 0.01, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1}, SGD, {}),
    ("adam", {}, Adam, {"lr": 0.001}),
    ("adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "amsgrad": True}, Adam, {}),
    ("adamw", {}, AdamW, {"lr": 0.001, "weight_decay": 0.01}),
    ("adamw", {"lr": 0.1, "betas": (0.5, 0.9), "weight_decay": 0.3, "amsgrad": True}, AdamW, {}),
]
DIRECT: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (Adam, {}),
    (Adam, {"weight_decay": 0.1, "maximize": True, "betas": (0.8, 0.9)}),
    (AdamW, {"weight_decay": 0.1, "eps": 1e-6}),
    (SGD, {}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (SGD, {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
]
UNUSUAL: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (Adam, {"amsgrad": True}),
    (Adam, {"lr": torch.tensor(0.01)}),
    (Adam, {"fused": False}),
    (SGD, {"momentum": 0.9, "fused": False}),
]
EACH = pytest.mark.parametrize(
    ("kind", "arguments"), [(SGD, {}), (SGD, {"momentum": 0.9}), (Adam, {}), (AdamW, {})]
)


class Direct:
    """Counts the steps that call the kernel directly: torch's own step always passes ``grad_scale``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("_fused_adam_", "_fused_adamw_", "_fused_sgd_"):
            monkeypatch.setattr(torch, name, self._counted(getattr(torch, name)))

    def _counted(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += "grad_scale" not in named
            return kernel(*arguments, **named)

        return counted


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> Direct:
    return Direct(monkeypatch)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)


def train(
    model: nn.Module,
    optimizer: Optimizer,
    steps: int = 8,
    *,
    first: int = 0,
    scheduler: LRScheduler | None = None,
    before_step: Callable[[int], None] = lambda step: None,
) -> list[Tensor]:
    """The parameters after each step."""
    found = []
    dtype = next(model.parameters()).dtype
    for step in range(first, first + steps):
        before_step(step)
        inputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        loss = model(inputs).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        found.append(torch.cat([item.detach().flatten() for item in model.parameters()]))
    return found


def assert_same(
    run: Callable[[Callable[..., Optimizer]], list[Tensor]], expected_direct: int, direct: Direct
) -> None:
    """``run`` gives the same tensors with torch's classes, and calls the kernel directly that many times."""
    ours = run(make)
    assert direct.count == expected_direct
    with stock_classes():
        theirs = run(make)
    assert direct.count == expected_direct
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


# ------------------------------------------------------------------ which optimizer is made


@pytest.mark.parametrize(("name", "arguments", "stock", "defaults"), OPTIONS)
@pytest.mark.parametrize("fused", [None, False])
def test_the_options_reach_torchs_class(
    name: str, arguments: dict[str, Any], stock: type[Any], defaults: dict[str, Any], fused: bool | None
) -> None:
    parameters = list(network().parameters())
    optimizer = OPTIMIZERS.load(name)(parameters, **arguments, fused=fused)
    assert isinstance(optimizer, stock)
    expected = stock(parameters, **defaults, **arguments, fused=fused is None)
    assert (type(optimizer).__name__, type(optimizer).__module__) == (stock.__name__, stock.__module__)
    assert repr(optimizer).startswith(f"{stock.__name__} (")
    assert optimizer.state_dict() == expected.state_dict()


def test_fused_needs_floating_point_parameters_on_a_device_with_kernels() -> None:
    def fused(*parameters: Tensor) -> Any:
        return make(Adam, (each for each in parameters)).param_groups[0]["fused"]

    assert fused(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not fused(torch.zeros(2), torch.zeros(2, dtype=torch.complex64))
    assert not fused(torch.zeros(2, device="meta"))


@pytest.mark.slow
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


# ------------------------------------------------------------------ every step is torch's


@pytest.mark.parametrize(("kind", "arguments"), [*DIRECT, *UNUSUAL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_step_is_torchs(
    kind: type[Optimizer], arguments: dict[str, Any], dtype: torch.dtype, direct: Direct
) -> None:
    def run(make: Callable[..., Optimizer]) -> list[Tensor]:
        model = network(dtype)
        return train(model, make(kind, model.parameters(), **copy.deepcopy(arguments)))

    # The first step makes the state and checks the types.
    assert_same(run, 7 if (kind, arguments) in DIRECT else 0, direct)


def test_groups_with_settings_of_their_own_and_a_schedule_that_moves_betas(direct: Direct) -> None:
    def run(make: Callable[..., Optimizer]) -> list[Tensor]:
        found = []
        for kind, arguments in ((AdamW, {}), (SGD, {"momentum": 0.9})):
            model = network()
            head, *rest = model.parameters()
            groups = [{"params": [head], "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
            optimizer = make(kind, groups, **arguments)
            scheduler = OneCycleLR(optimizer, max_lr=[0.1, 0.01], total_steps=10)
            found += train(model, optimizer, scheduler=scheduler)
        return found

    assert_same(run, 2 * 2 * 7, direct)


def test_parameters_without_a_gradient_stay_and_a_late_one_begins_late(direct: Direct) -> None:
    def run(make: Callable[..., Optimizer]) -> list[Tensor]:
        model, extra = network(), nn.Parameter(torch.ones(3))
        optimizer = make(Adam, [*model.parameters(), extra], lr=0.01)
        found = train(model, optimizer, before_step=lambda step: model[0].requires_grad_(step >= 3) and None)
        assert torch.equal(extra.detach(), torch.ones(3))
        return found

    assert_same(run, 6, direct)


def test_types_that_differ_go_to_torch(direct: Direct) -> None:
    def run(make: Callable[..., Optimizer]) -> list[Tensor]:
        parts = nn.ModuleList([network(), nn.Linear(6, 1, dtype=torch.float64)])
        optimizer = make(Adam, parts.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            (parts[0](torch.ones(2, 6)).sum() + parts[1](torch.ones(2, 6).double()).sum()).backward()
            optimizer.step()
        return [item.detach() for item in parts.parameters()]

    assert_same(run, 0, direct)


@EACH
def test_a_state_dict_round_trips_also_through_torchs_own_class(
    kind: type[Any], arguments: dict[str, Any]
) -> None:
    model = network()
    optimizer = make(kind, model.parameters(), lr=0.01, **arguments)
    train(model, optimizer, 3)
    saved, twins = copy.deepcopy(optimizer.state_dict()), [copy.deepcopy(model) for _ in range(2)]
    expected = train(model, optimizer, 4, first=3)[-1]
    for twin, construct in zip(twins, (lean(kind), kind), strict=True):
        other = construct(twin.parameters(), lr=0.5, fused=True)
        other.load_state_dict(copy.deepcopy(saved))
        assert torch.equal(train(twin, other, 4, first=3)[-1], expected)


@EACH
def test_a_copy_trains_on_its_own(kind: type[Optimizer], arguments: dict[str, Any]) -> None:
    model = network()
    optimizer = make(kind, model.parameters(), lr=0.01, **arguments)
    before = train(model, optimizer, 2)[-1]
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    after = train(twin, twin_optimizer, 2, first=2)[-1]
    assert not torch.equal(after, before)
    assert torch.equal(train(model, optimizer, 2, first=2)[-1], after)


# ------------------------------------------------------------------ hooks, closures, scalers, profilers


def test_hooks_see_each_step(direct: Direct) -> None:
    seen: list[str] = []
    model = network()
    optimizer = make(Adam, model.parameters())
    handles = [
        optimizer.register_step_pre_hook(lambda *given: seen.append(f"before {len(given[1])}")),
        optimizer.register_step_post_hook(lambda *given: seen.append("after")),
        register_optimizer_step_pre_hook(lambda *given: seen.append("any")),
    ]
    try:
        train(model, optimizer, 2)
    finally:
        for handle in handles:
            handle.remove()
    # The optimizer itself is the only argument that torch passes on.
    assert seen == ["any", "before 1", "after"] * 2
    assert direct.count == 1
    train(model, optimizer, 1)
    assert (len(seen), direct.count) == (6, 2)


def test_a_hook_may_change_gradients_and_arguments(direct: Direct) -> None:
    def zero(optimizer: Optimizer, *_: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.zero_()

    model = network()
    optimizer = make(SGD, model.parameters(), lr=0.1)
    zeroing = optimizer.register_step_pre_hook(zero)
    first, *_, last = train(model, optimizer, 3)
    zeroing.remove()
    assert torch.equal(first, last)
    optimizer.register_step_pre_hook(lambda _, given, named: ((*given, lambda: 2.0), named))
    assert optimizer.step() == 2.0  # type: ignore[comparison-overlap]
    assert direct.count == 2
    optimizer.register_step_pre_hook(lambda *given: 3)  # type: ignore[arg-type]
    with pytest.raises((RuntimeError, TypeError)):
        optimizer.step()


@EACH
def test_a_closure_steps_every_group(kind: type[Optimizer], arguments: dict[str, Any]) -> None:
    model = network()
    optimizer = make(kind, model[0].parameters(), lr=0.1, **arguments)
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.0, "weight_decay": 0.0})

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(torch.randn(7, 6, generator=torch.Generator().manual_seed(1))).square().mean()
        loss.backward()
        return loss

    loss: Any = optimizer.step(closure)  # type: ignore[func-returns-value, arg-type]
    assert loss.requires_grad
    fresh = network()
    assert not torch.equal(model[0].weight, fresh[0].weight)
    assert torch.equal(model[2].weight, fresh[2].weight)


def test_the_flag_of_a_gradient_scaler_is_heeded() -> None:
    model = network()
    optimizer = make(Adam, model.parameters())
    before = train(model, optimizer, 2)[-1]
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), None  # type: ignore[attr-defined]
    assert torch.equal(train(model, optimizer, 1)[0], before)
    del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
    assert not torch.equal(train(model, optimizer, 1)[0], before)


def test_a_profiler_sees_torchs_ranges() -> None:
    model = network()
    optimizer = make(Adam, model.parameters())
    train(model, optimizer, 2)
    with torch.profiler.profile(acc_events=True) as profile:  # older versions warn without it
        train(model, optimizer, 1)
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad"} <= names


def test_gradients_are_dropped_or_set_to_zero() -> None:
    model = network()
    optimizer = make(Adam, model.parameters())
    train(model, optimizer, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(item.grad is not None and not item.grad.any() for item in model.parameters())
    optimizer.zero_grad()
    assert all(item.grad is None for item in model.parameters())


def test_a_class_of_ones_own_keeps_its_step(direct: Direct) -> None:
    class Doubled(Adam):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            super().step(closure)

    class Filled(Optimizer):
        def __init__(self, parameters: Iterable[Any]) -> None:
            super().__init__(parameters, {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for parameter in self.param_groups[0]["params"]:
                parameter.data.fill_(7)

    parameter = nn.Parameter(torch.zeros(2))
    make(Filled, [parameter]).step()
    assert parameter.tolist() == [7, 7]
    parameter.grad = torch.ones(2)
    optimizer = make(Doubled, [parameter], fused=True)
    optimizer.step()
    optimizer.step()
    assert (optimizer.state[parameter]["step"], direct.count) == (4, 0)
