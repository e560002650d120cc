"""The losses of torch.nn: all there, each with the targets it needs, refused where they do not fit."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from torch import nn

from trainctl.components.tasks._base import task_named
from trainctl.config.settings import Component
from trainctl.registry import LOSSES
from trainctl.training.construct import construct
from trainctl.training.targets import output_of

NAMES = LOSSES.names()


def snake(class_name: str) -> str:
    """A class name without ``Loss`` in snake case: ``SmoothL1Loss`` is smooth_l1."""
    short = class_name.removesuffix("Loss")
    known = {"BCEWithLogits": "bce_with_logits", "KLDiv": "kl_div", "PoissonNLL": "poisson_nll"}
    known |= {
        "GaussianNLL": "gaussian_nll",
        "SmoothL1": "smooth_l1",
        "AdaptiveLogSoftmaxWith": "adaptive_log_softmax_with_loss",
    }
    return known.get(short) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", short).lower()


def test_every_loss_of_torch_can_be_chosen_or_is_refused_with_a_reason() -> None:
    classes = [
        name
        for name, member in vars(nn.modules.loss).items()
        if inspect.isclass(member) and name.endswith("Loss") and not name.startswith("_")
    ]
    for name in [*classes, "AdaptiveLogSoftmaxWithLoss"]:
        assert snake(name) in NAMES or LOSSES.refused[snake(name)], name


def batch(target: str) -> tuple[torch.Tensor, torch.Tensor]:
    outputs = torch.randn(6, 3, requires_grad=True)
    targets = {
        "class": torch.tensor([0, 1, 2, 0, 1, 2]),
        "value": torch.rand(6, 3),
        "binary": torch.rand(6, 3).round(),
        "sign": torch.rand(6, 3).round() * 2 - 1,
        "labels": torch.tensor([[0, -1, -1]] * 6),
    }
    return outputs, targets[target]


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_one_number_with_a_gradient_and_equals_torchs(name: str) -> None:
    torch.manual_seed(0)
    loss = construct(Component("loss", name), task="classification")
    outputs, targets = batch(loss.target)
    if name == "bce":
        outputs = outputs.detach().sigmoid().requires_grad_()
    value = loss(outputs, targets)
    assert value.shape == ()
    value.backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    own = construct(Component("loss", name.removeprefix("scratch_")), task="classification")
    stock = next(cls for cls in type(own).__mro__ if cls.__module__ == "torch.nn.modules.loss")
    # torch's own default of kl_div is not the divergence.
    arguments = {"reduction": "batchmean"} if name == "kl_div" else {}
    # The rebuilt cross-entropy adds in another order than torch's kernel.
    tolerance = 1e-6 if name == "scratch_cross_entropy" else 0.0
    torch.testing.assert_close(value, stock(**arguments)(outputs, targets), rtol=tolerance, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_its_arguments_reach_it_and_reduction_is_not_one_of_them(name: str) -> None:
    arguments = LOSSES.signature(name).names
    assert not {"reduction", "reduce", "size_average", "weight"} & set(arguments)


def test_an_argument_of_a_torch_class_changes_the_loss() -> None:
    outputs, targets = torch.tensor([[3.0]]), torch.tensor([[0.0]])
    assert construct(Component("loss", "huber", {"delta": 0.5}))(outputs, targets) == 0.5 * (3 - 0.25)
    assert construct(Component("loss", "smooth_l1", {"beta": 2.0}))(outputs, targets) == 2.0


def test_class_weights_by_hand_and_balanced() -> None:
    counts = torch.tensor([30, 10])
    outputs, targets = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 0])
    settings = {"class_weights": [1.0, 3.0], "label_smoothing": 0.2}
    given = construct(Component("loss", "cross_entropy", settings), class_counts=counts)
    weight = torch.tensor([1.0, 3.0])
    expected = nn.functional.cross_entropy(outputs, targets, weight, label_smoothing=0.2)
    assert torch.equal(given(outputs, targets), expected)
    assert given.batch_weight(targets) == 9.0
    balanced = construct(Component("loss", "nll", {"class_weights": "balanced"}), class_counts=counts)
    assert balanced.weight.tolist() == pytest.approx([40 / 60, 40 / 20])


def test_the_wrong_number_of_class_weights_is_refused(trainctl) -> None:
    outcome = trainctl("loss.class_weights=[1,2]")
    assert outcome.code == 2
    assert "2 weights for 10 classes" in outcome.err


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["loss=l1"], ["loss=l1 does not fit", "(N, 10)", "int64", "use loss=cross_entropy"]),
        (["loss=bce_with_logits"], ["class numbers"]),
        (
            ["dataset=synthetic", "dataset.task=regression", "loss=bce_with_logits"],
            ["needs targets from 0 to 1", "use loss=mse"],
        ),
        (
            ["dataset=synthetic", "dataset.task=regression", "loss=soft_margin"],
            ["needs targets that are 1 or -1"],
        ),
        (["dataset=synthetic", "dataset.task=regression", "loss=multi_margin"], ["the targets are values"]),
        (["loss=ctc"], ["loss=ctc: it needs the lengths of sequences"]),
        (["loss=huber", "loss.delta=-1"], ["loss.delta=-1: must be a number greater than 0"]),
        (["loss=hubre"], ["did you mean loss=huber?"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_misfit_is_refused_with_the_reason(trainctl, words: list[str], messages: list[str]) -> None:
    outcome = trainctl(*words)
    assert outcome.code == 2
    for message in messages:
        assert message in outcome.err


TARGETS = """
import torch
from trainctl.data import Data, Split, Standardize
from trainctl.registry import DATASETS


@DATASETS.register("targets")
def targets(kind: str = "binary") -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs, raw = torch.randn(200, 4, generator=generator), torch.rand(200, 3, generator=generator)
    made = {
        "binary": raw.round(),
        "sign": raw.round() * 2 - 1,
        "probabilities": raw / raw.sum(1, keepdim=True),
        "labels": torch.tensor([[0, 2, -1], [1, -1, -1]]).repeat(100, 1),
    }
    split = Split(inputs, made[kind])
    return Data("targets", "regression", split, split, (4,), 3, Standardize())
"""


@pytest.mark.parametrize(
    ("name", "kind", "last"),
    [
        ("bce", "binary", "Sigmoid"),
        ("bce_with_logits", "binary", "Identity"),
        ("multi_label_soft_margin", "binary", "Identity"),
        ("multi_label_margin", "labels", "Identity"),
        ("soft_margin", "sign", "Identity"),
        ("hinge_embedding", "sign", "Identity"),
        ("kl_div", "probabilities", "{LogSoftmax: 1}"),
    ],
)
@pytest.mark.slow
def test_a_loss_of_other_targets_trains(trainctl, tmp_path, name: str, kind: str, last: str) -> None:
    (tmp_path / "targets.py").write_text(TARGETS)
    model = ("model=sequential", f"model.layers=[{{Linear: 3}},{last}]")
    data = ("plugins=./targets.py", "dataset.name=targets", f"dataset.kind={kind}", "train.metrics=[]")
    outcome = trainctl(f"loss={name}", *model, *data, "train.max_steps=5", "batch_size=16", "threads=1")
    assert outcome.code == 0, outcome.err


class _Rates(nn.PoissonNLLLoss):
    pass


class _Logits(nn.BCEWithLogitsLoss):
    pass


def test_a_loss_of_ones_own_is_read_out_as_the_one_that_it_is_made_from() -> None:
    regression = task_named("regression")
    losses = {_Rates(): "log", _Rates(log_input=False): "", _Logits(): "logit", nn.MSELoss(): ""}
    for loss, output in losses.items():
        assert output_of(regression, loss) == output
