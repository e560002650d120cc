"""The optimizers of torch.optim: all there, equal to the stock classes, refused where they cannot serve."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from trainctl.config.settings import Component
from trainctl.registry import OPTIMIZERS
from trainctl.training.construct import construct

FAMILY = {
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "adagrad": "Adagrad",
    "adamax": "Adamax",
    "asgd": "ASGD",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "rprop": "Rprop",
}


def test_every_optimizer_of_torch_can_be_chosen_or_is_refused_with_a_reason() -> None:
    names = {"SparseAdam": "sparse_adam", "Optimizer": ""}
    for class_name, member in vars(torch.optim).items():
        if (
            inspect.isclass(member)
            and issubclass(member, torch.optim.Optimizer)
            and class_name != "Optimizer"
        ):
            name = names.get(class_name, class_name.lower())
            assert name in OPTIMIZERS.names() or OPTIMIZERS.refused[name], class_name


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        inputs, targets = torch.randn(4, 6, generator=generator), torch.randn(4, 3, generator=generator)
        loss = (model(inputs) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", FAMILY)
def test_it_steps_as_the_stock_class_to_the_last_bit(name: str) -> None:
    ours, theirs = network(), network()
    lean = construct(Component("optim", name, {"lr": 0.01}), parameters=list(ours.parameters()))
    stock = getattr(torch.optim, FAMILY[name])(theirs.parameters(), lr=0.01)
    assert type(lean).__name__ == FAMILY[name]
    for own, other in zip(steps(ours, lean), steps(theirs, stock), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
@pytest.mark.slow
def test_it_trains_by_name_and_its_state_comes_back(trainctl, name: str) -> None:
    outcome = trainctl(f"optim={name}", "train.max_steps=4", "threads=1", "model.hidden=[16]")
    assert outcome.code == 0, outcome.err
    model = network()
    optimizer = construct(Component("optim", name), parameters=list(model.parameters()))
    steps(model, optimizer, 3)
    again = copy.deepcopy(model)
    other = construct(Component("optim", name), parameters=list(again.parameters()))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for own, copied in zip(steps(model, optimizer, 2), steps(again, other, 2), strict=True):
        assert torch.equal(own, copied)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim=lbfgs"], "optim=lbfgs: it evaluates the loss several times a step through a closure"),
        (["optim=sparse_adam"], "optim=sparse_adam: it takes sparse gradients only"),
        (["optim.name=lbfgs"], "it evaluates the loss several times"),
        (["optim=rmsprop", "optim.alhpa=0.9"], "did you mean optim.alpha?"),
        (["optim=rmsprop", "optim.maximize=true"], "has no argument 'maximize'"),
        (["optim=radam", "lr=abc"], "optim.lr=abc: must be a number greater than 0"),
        (["optim.no_decay=[bais]"], "optim.no_decay=bais: matches no parameter"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_serve_is_refused_with_the_reason(trainctl, words: list[str], message: str) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    assert message in outcome.err


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    model = network()
    optimizer = construct(Component("optim", "muon", {"lr": 0.01}), parameters=list(model.parameters()))
    muon, adamw = optimizer.parts
    assert [tuple(item.shape) for group in muon.param_groups for item in group["params"]] == [(8, 6), (3, 8)]
    assert all(item.dim() == 1 for group in adamw.param_groups for item in group["params"])
    ours, theirs = network(), network()
    both = construct(Component("optim", "muon", {"lr": 0.01}), parameters=list(ours.parameters()))
    matrices = [item for item in theirs.parameters() if item.dim() == 2]
    rest = [item for item in theirs.parameters() if item.dim() != 2]
    first = torch.optim.Muon(matrices, lr=0.01, adjust_lr_fn="match_rms_adamw")
    second = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1, fused=True)

    class Together:
        def zero_grad(self) -> None:
            first.zero_grad()
            second.zero_grad()

        def step(self) -> None:
            first.step()
            second.step()

    for own, other in zip(steps(ours, both), steps(theirs, Together()), strict=True):  # type: ignore[arg-type]
        assert torch.equal(own, other)


def test_a_scheduler_reaches_both_parts_of_muon() -> None:
    optimizer = construct(Component("optim", "muon"), parameters=list(network().parameters()))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {0.0005}
