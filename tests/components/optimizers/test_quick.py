"""The quick way to the fused kernels gives torch's numbers, and leaves to torch what is not plain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.optimizer import register_optimizer_step_pre_hook

from trainctl.components.optimizers import _quick
from trainctl.components.optimizers._lean import lean, make, stock_classes

SETTINGS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1, "maximize": True, "betas": (0.8, 0.9)}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.Adam, {"lr": torch.tensor(0.01)}),
    (torch.optim.Adam, {"fused": False}),
    (torch.optim.AdamW, {"weight_decay": 0.1, "eps": 1e-6}),
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5, "maximize": True}),
]


class Taken:
    """Counts the steps that went the quick way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("_fused_adam_", "_fused_adamw_", "_fused_sgd_"):
            monkeypatch.setattr(torch, name, self._counted(getattr(torch, name)))

    def _counted(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += "grad_scale" not in named  # torch's own step always names it
            return kernel(*arguments, **named)

        return counted


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 8,
    *,
    scheduler: LRScheduler | None = None,
    between: Callable[[int], None] = lambda step: None,
) -> list[Tensor]:
    """The parameters after each step."""
    chance = torch.Generator().manual_seed(1)
    found = []
    dtype = next(model.parameters()).dtype
    for step in range(steps):
        between(step)
        inputs = torch.randn(7, 6, generator=chance).to(dtype)
        loss = model(inputs).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        found.append(torch.cat([item.detach().flatten() for item in model.parameters()]))
    return found


def both(kind: type[torch.optim.Optimizer], arguments: dict[str, Any], **how: Any) -> tuple[Any, Any]:
    """Parameters step by step: with torch's class, and with ours."""
    results = []
    for stock in (True, False):
        model = network(how.get("dtype", torch.float32))
        with stock_classes(stock):
            optimizer = make(kind, how.get("groups", lambda m: m.parameters())(model), **arguments)
        scheduler = how["scheduler"](optimizer) if "scheduler" in how else None
        results.append(train(model, optimizer, scheduler=scheduler))
    return results[0], results[1]


def is_same(theirs: list[Tensor], ours: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(theirs, ours, strict=True))


@pytest.mark.parametrize(("kind", "arguments"), SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_step_is_torchs(
    kind: type[torch.optim.Optimizer], arguments: dict[str, Any], dtype: torch.dtype, taken: Taken
) -> None:
    if dtype == torch.float64 and "lr" in arguments:
        pytest.skip("a learning rate that is a tensor goes to torch in every type")
    assert is_same(*both(kind, arguments, dtype=dtype))
    plain = not {"amsgrad", "fused", "lr"} & set(arguments)
    # The first step makes the state; of plain SGD there is none, but it looks at the types.
    assert taken.count == (7 if plain else 0)


def test_groups_with_settings_of_their_own_and_a_schedule_that_moves_betas(taken: Taken) -> None:
    def groups(model: nn.Sequential) -> list[dict[str, Any]]:
        first, *rest = list(model.parameters())
        return [{"params": [first], "lr": 0.1, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]

    def schedule(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return OneCycleLR(optimizer, max_lr=[0.1, 0.01], total_steps=10)

    assert is_same(*both(torch.optim.AdamW, {}, groups=groups, scheduler=schedule))
    assert is_same(*both(torch.optim.SGD, {"momentum": 0.9}, groups=groups, scheduler=schedule))
    assert taken.count == 2 * 2 * 7


def test_parameters_without_a_gradient_stay(taken: Taken) -> None:
    results = []
    for stock in (True, False):
        model = network()
        extra = nn.Parameter(torch.ones(3))
        with stock_classes(stock):
            optimizer = make(torch.optim.Adam, [*model.parameters(), extra])
        results.append(train(model, optimizer))
        assert torch.equal(extra.detach(), torch.ones(3))
    assert is_same(*results)
    assert taken.count == 7


def test_what_gets_its_first_gradient_late_begins_late(taken: Taken) -> None:
    results = []
    for stock in (True, False):
        model = network()

        def between(step: int, model: nn.Sequential = model) -> None:
            model[0].requires_grad_(step >= 3)

        with stock_classes(stock):
            optimizer = make(torch.optim.Adam, model.parameters(), lr=0.01)
        results.append(train(model, optimizer, between=between))
    assert is_same(*results)
    assert taken.count == 6


def test_types_that_differ_go_to_torch(taken: Taken) -> None:
    results = []
    for stock in (True, False):
        model = network()
        other = nn.Parameter(torch.ones(2, dtype=torch.float64))
        with stock_classes(stock):
            optimizer = make(torch.optim.Adam, [*model.parameters(), other], lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            (model(torch.ones(2, 6)).sum() + other.square().sum()).backward()
            optimizer.step()
        results.append([other.detach(), *(item.detach() for item in model.parameters())])
    assert is_same(*results)
    assert taken.count == 0


def test_a_state_that_was_loaded_is_used(taken: Taken) -> None:
    model, other = network(), network()
    optimizer, again = (make(torch.optim.Adam, each.parameters(), lr=0.01) for each in (model, other))
    train(model, optimizer, 5)
    train(other, again, 2)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert is_same(train(model, optimizer), train(other, again))


def test_hooks_see_each_step(taken: Taken) -> None:
    seen: list[str] = []
    model = network()
    optimizer = make(torch.optim.Adam, model.parameters())
    train(model, optimizer, 2)
    assert taken.count == 1
    handles = [
        optimizer.register_step_pre_hook(lambda *given: seen.append(f"before {len(given[1])}")),
        optimizer.register_step_post_hook(lambda *given: seen.append("after")),
        register_optimizer_step_pre_hook(lambda *given: seen.append("any")),
    ]
    try:
        train(model, optimizer, 1)
    finally:
        for handle in handles:
            handle.remove()
    # The optimizer itself is what torch hands on as its only argument.
    assert seen == ["any", "before 1", "after"]
    assert taken.count == 2
    train(model, optimizer, 1)
    assert (len(seen), taken.count) == (3, 3)


def test_a_hook_may_change_what_the_step_is_given(taken: Taken) -> None:
    model = network()
    optimizer = make(torch.optim.Adam, model.parameters())
    train(model, optimizer, 2)
    called: list[int] = []

    def with_closure(optimizer: Any, arguments: Any, named: Any) -> Any:
        return (*arguments, lambda: called.append(1) or 2.0), named

    handle = optimizer.register_step_pre_hook(with_closure)
    assert optimizer.step() == 2.0  # type: ignore[comparison-overlap]
    handle.remove()
    assert (called, taken.count) == ([1], 1)
    wrong = optimizer.register_step_pre_hook(lambda *given: 3)  # type: ignore[arg-type]
    with pytest.raises((RuntimeError, TypeError)):
        optimizer.step()
    wrong.remove()


def test_the_flag_of_a_gradient_scaler_is_heeded(taken: Taken) -> None:
    model = network()
    optimizer = make(torch.optim.Adam, model.parameters())
    before = train(model, optimizer, 2)[-1]
    optimizer.found_inf, optimizer.grad_scale = torch.ones(()), None  # type: ignore[attr-defined]
    assert torch.equal(train(model, optimizer, 1)[0], before)
    del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]
    assert not torch.equal(train(model, optimizer, 1)[0], before)


def test_a_closure_and_a_profiler_get_torchs_step(taken: Taken) -> None:
    model = network()
    optimizer = make(torch.optim.Adam, model.parameters())
    train(model, optimizer, 2)
    assert optimizer.step(lambda: 3.0) == 3.0
    with torch.profiler.profile() as profile:
        train(model, optimizer, 1)
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#Adam.step", "Optimizer.zero_grad#Adam.zero_grad"} <= names
    assert taken.count == 1


def test_gradients_are_dropped_or_set_to_zero() -> None:
    model = network()
    optimizer = make(torch.optim.Adam, model.parameters())
    train(model, optimizer, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(item.grad is not None and not item.grad.any() for item in model.parameters())
    optimizer.zero_grad()
    assert all(item.grad is None for item in model.parameters())


def test_an_optimizer_of_ones_own_keeps_its_step() -> None:
    class Own(torch.optim.Adam):
        pass

    assert set(_quick.PREPARE) == {"Adam", "AdamW", "SGD"}
    assert not hasattr(lean(Own).step, "hooked") or lean(Own).step is not lean(torch.optim.Adam).step
