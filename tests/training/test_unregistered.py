"""A model whose state does not hold all of it is refused before it trains."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from trainctl.errors import ConfigError
from trainctl.training.unregistered import refuse_unregistered


class Model(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        for name, value in attributes.items():
            setattr(self, name, value)


def refused(make: Callable[[], Any]) -> str:
    torch.manual_seed(0)
    with pytest.raises(ConfigError) as caught:
        refuse_unregistered("mine", make(), make, 1)
    (problem,) = caught.value.problems
    return f"{problem.message} | {problem.remedy}"


@pytest.mark.parametrize(
    ("make", "place", "remedy"),
    [
        (lambda: Model(layers=[nn.ReLU(), nn.Linear(2, 2)]), "layers[1]", "nn.ModuleList"),
        (lambda: Model(heads={"a": nn.Linear(2, 2)}), "heads['a']", "nn.ModuleDict"),
        (lambda: Model(weights=[nn.Parameter(torch.ones(2))]), "weights[0]", "nn.ParameterList"),
        (lambda: Model(weight=torch.ones(2, requires_grad=True)), "weight", "nn.Parameter"),
        (lambda: Model(frequencies=torch.randn(3)), "frequencies", "self.register_buffer('frequencies', …)"),
        (lambda: Model(drawn=[torch.from_numpy(numpy.random.rand(3))]), "drawn[0]", "buffer"),
        (lambda: Model(inner=Model(mask=torch.rand(3) > 0.5)), "inner.mask", "register_buffer('mask'"),
    ],
)
def test_what_no_checkpoint_holds_is_refused(make: Callable[[], Any], place: str, remedy: str) -> None:
    said = refused(make)
    assert f"model=mine: {place} is " in said
    assert remedy in said


@pytest.mark.parametrize(
    "make",
    [
        lambda: Model(mask=torch.ones(3, 3).tril(), nothing=torch.tensor(float("nan"))),
        lambda: Model(activations=[nn.ReLU(), nn.Tanh()]),
        lambda: Model(shape=(1, 2), table={"a": 1}),
    ],
)
def test_what_is_the_same_in_each_model_is_left_alone(make: Callable[[], Any]) -> None:
    refuse_unregistered("mine", make(), make, 1)


def test_layers_that_are_known_may_be_listed_again() -> None:
    model = Model()
    model.order = [model.linear]
    model.last = model.linear.weight
    refuse_unregistered("mine", model, lambda: pytest.fail("another one is not needed"), 1)


def test_all_random_numbers_go_on_as_if_nothing_had_been_built() -> None:
    def numbers() -> list[float]:
        return [random.random(), float(numpy.random.rand()), float(torch.rand(()))]

    def seed() -> None:
        random.seed(0)
        numpy.random.seed(0)
        torch.manual_seed(0)

    model = Model(mask=torch.ones(2))
    seed()
    expected = numbers()
    seed()
    refuse_unregistered("mine", model, lambda: Model(mask=torch.ones(2)), 1)
    assert numbers() == expected


def test_from_the_command_line(trainctl: Any, tmp_path: Any) -> None:
    (tmp_path / "fourier.py").write_text(
        "import torch\nfrom torch import nn\nfrom trainctl.registry import MODELS\n"
        "@MODELS.register('fourier')\n"
        "class Fourier(nn.Module):\n"
        "    def __init__(self, output_size):\n"
        "        super().__init__()\n"
        "        self.B = torch.randn(64, 8)\n"
        "        self.linear = nn.Linear(8, output_size)\n"
        "    def forward(self, inputs):\n"
        "        return self.linear((inputs.flatten(1) @ self.B).sin())\n"
    )
    outcome = trainctl("plugins=[./fourier.py]", "model.name=fourier", "train.max_steps=1")
    assert outcome.code == 2
    assert "model=fourier: B is a tensor drawn at random that no checkpoint would hold" in outcome.err
    assert "self.register_buffer('B', …)" in outcome.err
