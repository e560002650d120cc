"""Modules: what is found, in which order and under which name is what torch.nn.Module finds."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainctl.lessons import scratch
from trainctl.registry import protocols as protocol

SOURCE = Path(sys.modules[scratch.__name__].__file__ or "").parent


class Ours(scratch.Module):
    """A module with parameters of its own, a child, a list and plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = scratch.Linear(3, 4)
        self.scale = torch.full((4,), 2.0).requires_grad_()
        self.rest = scratch.ModuleList([scratch.Linear(4, 4), scratch.ReLU()])
        self.last = scratch.Sequential(scratch.Dropout(0.5), scratch.Linear(4, 2, bias=False))
        self.offset = torch.ones(2)
        self.words = ["a", "b"]

    def forward(self, inputs: Tensor) -> Any:
        outputs = self.inner(inputs) * self.scale
        for each in self.rest:
            outputs = each(outputs)
        return self.last(outputs) + self.offset


class Theirs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.full((4,), 2.0))
        self.rest = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])
        self.last = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2, bias=False))
        self.offset = torch.ones(2)

    def forward(self, inputs: Tensor) -> Any:
        outputs = self.inner(inputs) * self.scale
        for each in self.rest:
            outputs = each(outputs)
        return self.last(outputs) + self.offset


def both() -> tuple[Ours, Theirs]:
    torch.manual_seed(0)
    ours = Ours()
    torch.manual_seed(0)
    return ours, Theirs()


def equal(first: Any, second: Any) -> bool:
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    return all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)


def test_the_package_needs_nothing_of_trainctl() -> None:
    """It can be read, and copied, on its own."""
    files = sorted(SOURCE.glob("*.py"))
    assert len(files) >= 6
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                foreign = name.startswith("trainctl") and not name.startswith("trainctl.lessons.scratch")
                assert not foreign, f"{path.name} imports {name}"
                taken = ("torch.nn", "torch.optim", "torch.utils")
                assert not name.startswith(taken), f"{path.name} imports {name}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "nn"), ("torch", "optim")}, path.name


def test_a_module_has_torchs_names_in_torchs_order_and_computes_the_same_dropout_included() -> None:
    ours, theirs = both()
    assert equal(ours, theirs)
    assert [id(each) for each in ours.parameters()] == [id(each) for _, each in ours.named_parameters()]
    assert [name for name, _ in ours.named_children()] == [name for name, _ in theirs.named_children()]
    names = [name for name, _ in protocol.named_modules(ours)]
    assert names == [name for name, _ in theirs.named_modules()]
    inputs = torch.randn(5, 3)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        results = []
        for module in (ours, theirs):
            torch.manual_seed(3)
            results.append(module(inputs))
        assert torch.equal(*results)


# ------------------------------------------------------------------ attributes


def test_only_leaf_tensors_that_require_a_gradient_are_parameters() -> None:
    module = scratch.Module()
    module.leaf = torch.ones(1, requires_grad=True)
    module.parameter = nn.Parameter(torch.ones(1))
    module.plain = torch.ones(1)
    module.computed = module.leaf * 2
    module.number = 3.0
    assert [name for name, _ in module.named_parameters()] == ["leaf", "parameter"]
    assert module.computed.requires_grad


def test_a_parameter_frozen_later_stays_one() -> None:
    module = scratch.Linear(2, 3)
    module.weight.requires_grad_(False)
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias"]
    assert list(module.state_dict()) == ["weight", "bias"]
    module.weight += 1
    assert [name for name, _ in module.named_parameters()] == ["weight", "bias"]


def test_setting_again_replaces_in_place_or_changes_the_kind_and_deleting_forgets() -> None:
    module = Ours()
    before = [name for name, _ in module.named_parameters()]
    module.inner, module.scale = scratch.Linear(3, 4), torch.zeros(4, requires_grad=True)
    assert [name for name, _ in module.named_parameters()] == before
    assert dict(module.named_parameters())["scale"] is module.scale
    assert dict(module.named_parameters())["inner.weight"] is module.inner.weight
    module.scale, module.inner = scratch.Linear(1, 1), torch.ones(1, requires_grad=True)
    names = [name for name, _ in module.named_parameters()]
    assert names[0] == "inner"
    assert "scale.weight" in names
    assert "scale" not in names
    module.scale, module.inner = None, torch.ones(4)
    names = [name for name, _ in module.named_parameters()]
    assert names == ["rest.0.weight", "rest.0.bias", "last.1.weight"]
    assert [name for name, _ in module.named_children()] == ["rest", "last"]
    module = Ours()
    del module.scale, module.inner
    assert not hasattr(module, "scale")
    assert [name for name, _ in module.named_parameters()] == names


def test_a_shared_tensor_comes_once_and_is_stored_under_every_name() -> None:
    ours = scratch.Sequential(scratch.Linear(2, 2), scratch.Linear(2, 2))
    theirs = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    ours[1].weight, theirs[1].weight = ours[0].weight, theirs[0].weight
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    assert len(list(ours.parameters())) == 3


def test_what_a_subclass_forgot_is_named() -> None:
    class Hasty(scratch.Module):
        def __init__(self) -> None:
            self.weight = torch.ones(1)

    with pytest.raises(AttributeError, match=r"Hasty: call super\(\).__init__\(\) before setting 'weight'"):
        Hasty()
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        scratch.Module()(1)


def test_a_list_behaves_as_a_list() -> None:
    parts = [scratch.ReLU(), scratch.Flatten(), scratch.Dropout()]
    modules = scratch.ModuleList(parts)
    assert list(modules) == parts
    assert len(modules) == 3
    assert modules[0] is parts[0]
    assert modules[-1] is parts[2]
    with pytest.raises(IndexError):
        modules[3]
    with pytest.raises(TypeError, match="is not a scratch Module"):
        scratch.Sequential(nn.Linear(1, 1))  # type: ignore[arg-type]


# ------------------------------------------------------------------ mode, device, state


def test_the_mode_reaches_every_module_and_moving_keeps_the_tensors() -> None:
    module = Ours()
    before = list(module.parameters())
    assert module.to(torch.device("cpu")) is module
    assert all(one is other for one, other in zip(before, module.parameters(), strict=True))
    assert all(each.training for _, each in protocol.named_modules(module))
    assert module.eval() is module
    assert not any(each.training for _, each in protocol.named_modules(module))
    assert module.train() is module
    assert all(each.training for _, each in protocol.named_modules(module))
    module.train(False)
    assert not module.last[0].training


@pytest.mark.gpu
def test_to_moves_values_and_gradients_in_place() -> None:
    module = Ours()
    optimizer = scratch.SGD(module.parameters(), lr=0.1)
    module(torch.randn(4, 3)).sum().backward()
    before = [each.detach().clone() for each in module.parameters()]
    module.to("cuda")
    for parameter, old in zip(module.parameters(), before, strict=True):
        assert parameter.device.type == "cuda"
        assert parameter.is_leaf
        assert parameter.grad is not None
        assert parameter.grad.device.type == "cuda"
        assert torch.equal(parameter.cpu(), old)
    optimizer.step()
    assert not torch.equal(module.inner.weight.cpu(), before[0])
    module.to("cpu")
    assert all(each.device.type == "cpu" for each in module.parameters())


def test_a_state_has_torchs_names_and_goes_either_way() -> None:
    ours, theirs = both()
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    assert not any(value.requires_grad for value in ours.state_dict().values())
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(1)
    assert not equal(ours, theirs)
    held = list(ours.parameters())
    ours.load_state_dict(theirs.state_dict())
    assert equal(ours, theirs)
    assert all(one is other for one, other in zip(held, ours.parameters(), strict=True))
    fresh = Theirs()
    fresh.load_state_dict(ours.state_dict())
    assert equal(ours, fresh)
    with torch.no_grad():
        ours.scale.zero_()
    assert theirs.scale.all()


def test_a_state_that_does_not_fit_is_refused_in_torchs_words() -> None:
    ours, theirs = both()
    state = {name: torch.full_like(value, 7) for name, value in ours.state_dict().items()}
    state |= {"more": torch.ones(1), "rest.0.bias": torch.ones(1)}
    del state["scale"], state["inner.bias"]
    told = r"Error\(s\) in loading state_dict for (Ours|Theirs):"
    parts = [
        "Missing key(s) in state_dict: ",
        '"inner.bias"',
        '"scale"',
        'Unexpected key(s) in state_dict: "more"',
    ]
    parts += ["size mismatch for rest.0.bias", "torch.Size([1])", "torch.Size([4])"]
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match=told) as raised:
            module.load_state_dict(state)
        assert [part for part in parts if part not in str(raised.value)] == []
    assert not any(bool((parameter == 7).any()) for parameter in ours.parameters())


def test_without_strict_what_fits_is_copied_and_the_rest_returned() -> None:
    ours, theirs = both()
    state = {"scale": torch.full((4,), 7.0), "more": torch.ones(1)}
    mine, other = ours.load_state_dict(state, strict=False), theirs.load_state_dict(state, strict=False)
    assert sorted(mine.missing_keys) == sorted(other.missing_keys)
    assert mine.unexpected_keys == other.unexpected_keys == ["more"]
    assert equal(ours, theirs)
    assert ours.scale.tolist() == [7, 7, 7, 7]
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours.load_state_dict({"scale": torch.ones(5)}, strict=False)


# ------------------------------------------------------------------ hooks, copies, text


def test_hooks_see_inputs_and_outputs_and_may_replace_them() -> None:
    module, events = scratch.Linear(2, 1), []

    def first(owner: Any, inputs: Any, outputs: Any) -> None:
        events.append(("first", owner is module, isinstance(inputs, tuple), outputs.shape))

    def second(owner: Any, inputs: Any, outputs: Tensor) -> Tensor:
        events.append(("second", inputs[0].tolist()))
        return outputs * 0 + 5

    one, two = module.register_forward_hook(first), module.register_forward_hook(second)
    assert module(torch.ones(1, 2)).tolist() == [[5]]
    assert events == [("first", True, True, (1, 1)), ("second", [[1, 1]])]
    two.remove()
    assert module(torch.ones(1, 2)).tolist() != [[5]]
    assert len(events) == 3
    one.remove()
    one.remove()
    module(torch.ones(1, 2))
    assert len(events) == 3


def test_a_hook_may_remove_itself() -> None:
    module = scratch.ReLU()
    calls = []

    def once(*_: Any) -> None:
        calls.append("once")
        handle.remove()

    handle = module.register_forward_hook(once)
    module.register_forward_hook(lambda *_: calls.append("always"))
    module(torch.ones(1))
    module(torch.ones(1))
    assert calls == ["once", "always", "always"]


def test_a_copy_shares_nothing() -> None:
    module = Ours().eval()
    module.scale.requires_grad_(False)
    twin = copy.deepcopy(module)
    assert equal(module, twin)
    assert not twin.training
    assert not twin.scale.requires_grad
    calls: list[str] = []
    twin.register_forward_hook(lambda *_: calls.append("twin"))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(bool(parameter.any()) for parameter in module.parameters())
    module(torch.ones(2, 3))
    assert calls == []
    assert torch.equal(twin(torch.ones(2, 3)), torch.ones(2, 2))
    assert calls == ["twin"]


def test_a_copy_keeps_what_is_shared_inside_and_has_hooks_of_its_own() -> None:
    module, calls = scratch.Sequential(scratch.Linear(2, 2), scratch.Linear(2, 2)), []
    module[1].weight = module[0].weight
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    twin = copy.deepcopy(module)
    assert twin[0].weight is twin[1].weight is dict(twin.named_parameters())["0.weight"]
    handle.remove()
    module(torch.ones(1, 2))
    assert calls == []
    twin(torch.ones(1, 2))
    assert calls == [1]


def test_the_text_is_torchs() -> None:
    ours = scratch.Sequential(
        scratch.Linear(6, 3), scratch.ReLU(), scratch.Sequential(scratch.Linear(3, 2, bias=False))
    )
    theirs = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2, bias=False)))
    assert repr(ours) == repr(theirs)
    assert repr(scratch.Dropout(0.25)) == "Dropout(p=0.25)"
    assert repr(scratch.Flatten()) == "Flatten()"
    assert "scale=(4,)" in repr(Ours())
