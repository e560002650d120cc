"""Explain one training step: every number against the same step taken by hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.page import Page
from trainctl.analysis.step_timing import BY_HAND, _Clock
from trainctl.analysis.trace import trace
from trainctl.analysis.trace_report import Parameter, Trace
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.config.settings import Config
from trainctl.registry.protocols import Cursor
from trainctl.training.build import build
from trainctl.training.built import Built
from trainctl.ui.trace_page import render

SMALL = ("model.hidden=[8]", "threads=1", "device=cpu")

PLUGIN = """
import time

import torch
from torch import nn

from trainctl.registry import MODELS


@MODELS.register("odd")
class Odd(nn.Module):
    '''Parts that the loss does not reach, and parts that it reaches with a factor of zero.'''

    def __init__(self, input_shape: tuple[int, ...], output_size: int, bad: bool = False, sleep: float = 0.0):
        super().__init__()
        self.first = nn.Linear(64, 16)
        self.middle = nn.Identity()
        self.unused = nn.Linear(16, 16)
        self.silent = nn.Linear(16, 16)
        self.last = nn.Linear(16, output_size)
        self.loose = nn.Parameter(torch.ones(3))
        self.bad, self.sleep = bad, sleep
        self.middle.register_forward_hook(self.spoil)

    def spoil(self, module, inputs, outputs):
        return outputs / 0 if self.bad and self.training else outputs

    def forward(self, inputs):
        time.sleep(self.sleep)
        hidden = self.middle(self.first(inputs.flatten(1)))
        return self.last(hidden + 0 * self.silent(hidden))
"""
ODD = ("model.name=odd", "plugins=[./odd.py]", "threads=1", "device=cpu")


@pytest.fixture
def odd(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "odd.py").write_text(PLUGIN)
    return ODD


def configured(*words: str) -> Config:
    return Composer().compose([to_hydra(word) for word in words]).config


def traced(*words: str) -> tuple[Trace, Built]:
    config = configured(*words)
    built = build(config)
    return trace(built, config), built


@dataclass
class ByHand:
    """A step written out: what it started from, what it computed, what it left."""

    built: Built
    inputs: Tensor
    outputs: Tensor
    loss: float
    loss_after: float
    before: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    after: dict[str, Tensor]
    state: dict[str, Tensor]
    random: Tensor


def by_hand(*words: str, clip: float | None = None, parts: int = 1) -> ByHand:
    """The first step, without the loop: forward and backward of each part, clip, step, forward again."""
    built = build(configured(*words))
    run = built.run
    model, criterion, optimizer = run.model.train(), run.criterion, run.optimizer
    inputs, targets, *_ = next(iter(run.train_loader.batches(Cursor(0, 0))))
    before = {name: item.detach().clone() for name, item in model.named_parameters()}
    random = torch.get_rng_state()

    def forward() -> tuple[Tensor, list[Tensor]]:
        losses, outputs = [], []
        for part, answers in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            with run.precision:
                outputs.append(model(part))
                losses.append(criterion(outputs[-1], answers) / parts)
        return torch.cat(outputs), losses

    outputs, losses = forward()
    for loss in losses:
        loss.backward()
    gradients = {
        name: None if item.grad is None else item.grad.detach().clone()
        for name, item in model.named_parameters()
    }
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), clip)
    optimizer.step()
    state = {name: item.clone() for name, item in model.state_dict().items()}
    random_after = torch.get_rng_state()
    torch.set_rng_state(random)
    _, again = forward()
    return ByHand(
        built=built,
        inputs=inputs,
        outputs=outputs.detach(),
        loss=float(sum(loss.detach() for loss in losses)),
        loss_after=float(sum(loss.detach() for loss in again)),
        before=before,
        gradients=gradients,
        after={name: item.detach().clone() for name, item in model.named_parameters()},
        state=state,
        random=random_after,
    )


def norm(tensor: Tensor) -> float:
    return math.sqrt(sum(value * value for value in tensor.double().flatten().tolist()))


def agree(result: Trace, hand: ByHand) -> None:
    """Every number of every parameter, the losses and the batch."""
    assert result.loss == pytest.approx(hand.loss, rel=1e-6)
    assert result.loss_after == pytest.approx(hand.loss_after, rel=1e-6)
    assert [each.name for each in result.parameters] == list(hand.before)
    for each in result.parameters:
        before, after, gradient = (kept[each.name] for kept in (hand.before, hand.after, hand.gradients))
        assert each.shape == tuple(before.shape)
        assert each.before == pytest.approx(norm(before), rel=1e-9)
        assert each.after == pytest.approx(norm(after), rel=1e-6)
        assert each.update == pytest.approx(norm(after.double() - before.double()), rel=1e-4)
        share = each.update / norm(before) if norm(before) else None
        assert each.relative == (share if share is None else pytest.approx(share, rel=1e-6))
        if gradient is None:
            assert each.gradient is None
        else:
            assert each.gradient == pytest.approx(norm(gradient), rel=1e-5)
            assert each.zeros == int((gradient == 0).sum())
    known = [gradient for gradient in hand.gradients.values() if gradient is not None]
    assert result.gradient_norm == pytest.approx(math.sqrt(sum(norm(each) ** 2 for each in known)), rel=1e-5)
    (whole,) = result.layers[0].outputs
    assert (whole.low, whole.high) == (float(hand.outputs.min()), float(hand.outputs.max()))
    inputs = result.inputs["inputs"]
    assert inputs.shape == tuple(hand.inputs.shape)
    assert (inputs.low, inputs.high) == (float(hand.inputs.min()), float(hand.inputs.max()))


def shapes(result: Trace) -> dict[str, tuple[int, ...]]:
    return {layer.name: each.shape for layer in result.layers for each in layer.outputs}


def parameter(result: Trace, name: str) -> Parameter:
    return next(each for each in result.parameters if each.name == name)


class TestTheNumbers:
    def test_of_the_default_config_are_those_of_the_step_by_hand(self) -> None:
        result, built = traced("threads=1", "device=cpu")
        hand = by_hand("threads=1", "device=cpu")
        agree(result, hand)
        assert shapes(result) == {
            "": (64, 10),
            "layers": (64, 10),
            "layers.0": (64, 128),
            "layers.1": (64, 128),
            "layers.2": (64, 64),
            "layers.3": (64, 64),
            "layers.4": (64, 10),
        }
        assert [layer.kind for layer in result.layers][:4] == ["MLP", "Sequential", "Linear", "ReLU"]
        assert [layer.depth for layer in result.layers][:4] == [0, 1, 2, 2]
        assert [layer.parameters for layer in result.layers] == [17226, 17226, 8320, 0, 8256, 0, 650]
        assert (result.targets.dtype, result.targets.low, result.targets.high) == ("int64", 0, 9)
        assert (result.cleared, result.to_clear, result.clears) == (0, 6, True)
        assert result.findings == ()
        assert result.not_finite is None
        for name, value in built.run.model.state_dict().items():
            assert torch.equal(value, hand.state[name])

    def test_the_loss_is_the_one_that_training_logs_for_step_1(self, trainctl) -> None:
        words = ("model.dropout=0.3", "train.precision=bf16", "train.clip_norm=0.2", "threads=1")
        result, _ = traced(*words)
        assert trainctl(*words, "train.max_steps=1", "hydra.run.dir=run").code == 0
        first = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
        assert first["step"] == 1
        assert result.loss == first["train/loss"]

    @pytest.mark.slow
    def test_of_lenet_on_mnist_with_a_schedule(self, mnist_root: Path) -> None:
        words = ("experiment=mnist_lenet", f"dataset.root={mnist_root}", "threads=1", "device=cpu")
        result, _ = traced(*words, "scheduler.warmup=4")
        hand = by_hand(*words, "scheduler.warmup=4")
        agree(result, hand)
        found = shapes(result)
        assert found["features.0"] == (64, 6, 28, 28)
        assert found["features.3"] == (64, 16, 10, 10)
        assert found["features.5"] == (64, 16, 5, 5)
        assert found["classifier.6"] == found[""] == (64, 10)
        assert {each.lr for each in result.parameters} == {hand.built.run.optimizer.param_groups[0]["lr"]}
        assert parameter(result, "features.0.weight").lr == pytest.approx(0.002 / 4)

    def test_several_devices_are_traced_as_one_with_their_slices(self) -> None:
        result, _ = traced(*SMALL, "batch_size=32", "devices=5")
        told = dict(result.settings)["devices"]
        assert told == "5, traced as one; of 32 samples rank 0 1 to 7, rank 1 8 to 14, …, rank 4 27 to 32"
        assert result.targets.shape == (32,)

    def test_of_accumulated_batches_are_those_of_all_of_them(self) -> None:
        words = (*SMALL, "train.accumulate=3", "batch_size=32", "seed=2")
        result, _ = traced(*words)
        hand = by_hand(*words, parts=3)
        agree(result, hand)
        assert float(hand.outputs[:32].max()) < float(hand.outputs.max())
        assert result.inputs["inputs"].shape == (96, 1, 8, 8)
        assert {layer.calls for layer in result.layers} == {3}
        assert shapes(result)[""] == (32, 10)
        assert result.accumulate == 3

    def test_of_clipped_gradients_are_told_before_and_after_clipping(self) -> None:
        result, _ = traced(*SMALL, "train.clip_norm=0.05", "optim=sgd", "lr=0.5")
        hand = by_hand(*SMALL, "optim=sgd", "lr=0.5", clip=0.05)
        agree(result, hand)
        assert result.gradient_norm is not None
        assert result.gradient_norm > 0.2
        assert result.clipped_norm == pytest.approx(0.05, rel=1e-3)
        for each in result.parameters:
            assert each.gradient is not None
            assert each.clipped == pytest.approx(each.gradient * 0.05 / result.gradient_norm, rel=1e-3)
            assert each.update == pytest.approx(0.5 * each.clipped, rel=1e-3)
        assert result.timing is not None
        assert result.timing.clipping

    @pytest.mark.slow
    def test_the_loss_after_has_the_masks_of_the_loss_before(self) -> None:
        words = (*SMALL, "model.dropout=0.5", "optim=sgd", "lr=1e-30")
        result, _ = traced(*words)
        assert result.loss_after == result.loss
        agree(traced(*SMALL, "model.dropout=0.5")[0], by_hand(*SMALL, "model.dropout=0.5"))

    def test_measuring_leaves_random_numbers_and_running_statistics_as_the_step_left_them(self) -> None:
        words = ("model.hidden=[8]", "model.dropout=0.5", "model.normalization=batch", "threads=1")
        hand = by_hand(*words)
        result, built = traced(*words)
        assert torch.equal(torch.get_rng_state(), hand.random)
        agree(result, hand)
        left = built.run.model.state_dict()
        assert any("running_mean" in name for name in left)
        for name, value in left.items():
            assert torch.equal(value, hand.state[name]), name

    @pytest.mark.parametrize(
        ("words", "dtypes"),
        [
            (
                (*SMALL, "train.precision=bf16", "loss.class_weights=balanced"),
                {"int64", "bfloat16"},
            ),
            (("experiment=linear_regression", "threads=1", "device=cpu"), {"float32"}),
        ],
    )
    def test_of_bf16_weighted_classes_and_a_regression(
        self, words: tuple[str, ...], dtypes: set[str]
    ) -> None:
        result, _ = traced(*words)
        agree(result, by_hand(*words))
        outputs = {each.dtype for layer in result.layers if layer.kind == "Linear" for each in layer.outputs}
        assert {*outputs, result.targets.dtype} == dtypes

    @pytest.mark.slow
    def test_of_modules_and_an_optimizer_in_plain_python(self) -> None:
        words = ("model=scratch_mlp", "loss=scratch_cross_entropy", "optim=scratch_adam", "threads=1")
        result, _ = traced(*words, "loader=scratch")
        agree(result, by_hand(*words))
        assert {layer.kind for layer in result.layers} >= {"Linear", "ReLU"}
        assert all(layer.calls == 1 for layer in result.layers)
        assert result.to_clear == 6

    @pytest.mark.gpu
    def test_on_a_gpu(self) -> None:
        words = ("model.hidden=[8]", "model.dropout=0.5", "device=cuda")
        result, _ = traced(*words, "train.clip_norm=0.05")
        assert result.loss == pytest.approx(by_hand(*words).loss, rel=1e-4)
        assert result.clipped_norm == pytest.approx(0.05, rel=1e-3)
        assert result.timing is not None
        assert result.timing.synchronized


class TestWhatIsPointedOut:
    def test_frozen_parameters_have_no_gradient(self) -> None:
        words = (*SMALL, "model.freeze=[layers.0.*]")
        result, _ = traced(*words)
        agree(result, by_hand(*words))
        assert result.findings == (
            "layers.0.weight, layers.0.bias: no gradient: frozen by model.freeze=[layers.0.*]",
        )
        assert parameter(result, "layers.0.weight").marks == ("frozen",)
        assert parameter(result, "layers.2.weight").marks == ()
        assert {layer.name: layer.trainable for layer in result.layers}["layers.0"] == 0
        assert result.to_clear == 2

    def test_what_the_loss_does_not_reach_and_a_gradient_of_zero(self, odd: tuple[str, ...]) -> None:
        result, _ = traced(*odd, "optim=sgd")
        assert result.findings == (
            "loose: no gradient: not reached by the loss",
            "unused.weight, unused.bias: no gradient: not reached by the loss"
            " (unused (Linear) was not called)",
            "silent.weight, silent.bias: a gradient of zero, so no update",
        )
        assert parameter(result, "unused.weight").marks == ("no gradient", "no update")
        assert parameter(result, "silent.weight").marks == ("zero gradient", "no update")
        assert parameter(result, "first.weight").marks == ()
        assert {layer.name for layer in result.layers if not layer.calls} == {"unused"}

    @pytest.mark.slow
    def test_weight_decay_moves_what_has_a_gradient_of_zero(self, odd: tuple[str, ...]) -> None:
        result, _ = traced(*odd, "optim=adamw", "optim.weight_decay=0.1", "lr=0.01")
        assert parameter(result, "silent.weight").relative == pytest.approx(0.001, rel=1e-3)
        assert any("silent.weight" in text and "weight decay" in text for text in result.findings)

    @pytest.mark.slow
    def test_an_update_that_is_lost_in_rounding(self) -> None:
        result, _ = traced(*SMALL, "optim=sgd", "lr=1e-30")
        assert all(each.update == 0 and each.marks == ("no update",) for each in result.parameters)
        (sentence,) = result.findings
        assert "an update of zero: at learning rate 1e-30 it is lost in the rounding of float32" in sentence

    @pytest.mark.slow
    def test_a_learning_rate_of_zero(self) -> None:
        config = configured(*SMALL, "optim=sgd")
        built = build(config)
        built.run.optimizer.param_groups[0]["lr"] = 0.0
        (sentence,) = trace(built, config).findings
        assert sentence.endswith("an update of zero: its learning rate is 0")

    @pytest.mark.slow
    def test_a_parameter_that_the_optimizer_has_not(self) -> None:
        config = configured(*SMALL, "optim=sgd")
        built = build(config)
        built.run.optimizer.param_groups[0]["params"].pop()
        (sentence,) = trace(built, config).findings
        assert sentence == "layers.2.bias: an update of zero: the optimizer does not have it"

    def test_gradients_that_were_there_before_the_step(self) -> None:
        config = configured(*SMALL)
        built = build(config)
        for item in built.run.model.parameters():
            item.grad = torch.ones_like(item)
        result = trace(built, config)
        assert result.cleared == 4
        assert parameter(result, "layers.0.weight").gradient == pytest.approx(
            norm(by_hand(*SMALL).gradients["layers.0.weight"]), rel=1e-5
        )

    @pytest.mark.slow
    def test_a_step_that_updates_by_hand(self) -> None:
        words = (*SMALL, "optim=sgd", "loop=layers")
        result, _ = traced(*words)
        agree(result, by_hand(*words))
        assert (result.clears, result.to_clear) == (False, 0)
        assert result.timing is not None
        assert set(result.timing.phases) == {"forward", "loss", BY_HAND, "everything else"}

    def test_a_step_without_autograd(self) -> None:
        result, _ = traced("experiment=thermometer", "loop=derivatives", "threads=1")
        assert all(each.gradient is None and each.update > 0 for each in result.parameters)
        assert result.findings == (
            "linear.weight, linear.bias: no gradient from autograd:"
            " loop=derivatives computes the update itself",
        )


class TestNotFinite:
    def test_the_guard_keeps_the_step_from_being_taken(self, odd: tuple[str, ...]) -> None:
        result, _ = traced(*odd, "model.bad=true")
        assert not math.isfinite(result.loss)
        assert result.refused is not None
        assert (result.loss_after, result.timing) == (None, None)
        assert result.not_finite is not None
        assert "the first output that is not finite is that of middle (Identity)" in result.not_finite
        assert all(each.update == 0 for each in result.parameters)
        assert result.findings[0] == result.not_finite
        assert result.findings[1].startswith("no step was taken: the loss is")
        assert result.findings[2].endswith("a gradient that is not finite")

    def test_a_guard_that_leaves_the_step_out(self, odd: tuple[str, ...]) -> None:
        result, _ = traced(*odd, "model.bad=true", "guard.skip=2")
        assert not math.isfinite(result.loss)
        assert result.findings[1] == "no step was taken: guard.skip=2 skips it"

    def test_without_the_guard_the_values_are_spoiled(self, odd: tuple[str, ...]) -> None:
        result, _ = traced(*odd, "model.bad=true", "guard=none")
        assert result.refused is None
        assert "gradient not finite" in parameter(result, "last.weight").marks
        assert "update not finite" in parameter(result, "last.weight").marks
        assert result.layers[1].outputs[0].not_finite == 0
        assert result.layers[2].outputs[0].not_finite == 64 * 16

    def test_values_that_were_so_before_are_named(self) -> None:
        config = configured(*SMALL)
        built = build(config)
        with torch.no_grad():
            next(iter(built.run.model.parameters()))[0, 0] = math.nan
        result = trace(built, config)
        assert result.not_finite == "the loss is nan; layers.0.weight was not finite before the step"

    @pytest.mark.slow
    def test_a_step_so_long_that_the_loss_after_it_overflows(self) -> None:
        result, _ = traced(*SMALL, "optim=sgd", "lr=1e30")
        assert math.isfinite(result.loss)
        assert result.not_finite is not None
        assert result.not_finite.startswith("after the step the loss of the same batch is")

    def test_the_verb_shows_it_and_exits_6(self, trainctl, odd: tuple[str, ...], tmp_path: Path) -> None:
        outcome = trainctl("trace", *odd, "model.bad=true", "--html", "page.html")
        assert outcome.code == 6
        assert "middle (Identity)" in outcome.err
        assert "1,024 not finite" in outcome.out
        assert "middle (Identity)" in Path("page.html").read_text()


class TestTheTimes:
    def test_a_slow_forward_is_seen_as_one(self, odd: tuple[str, ...]) -> None:
        result, _ = traced(*odd, "model.sleep=0.02")
        timing = result.timing
        assert timing is not None
        assert 0.02 <= timing.phases["forward"] < 0.5
        assert max(timing.phases, key=timing.phases.__getitem__) == "forward"
        assert list(timing.phases) == ["forward", "loss", "zero_grad", "backward", "step", "everything else"]
        assert sum(timing.phases.values()) == pytest.approx(timing.total, rel=0.25)
        assert timing.first >= 0.02
        assert timing.steps == 5

    def test_what_lies_between_the_parts_goes_to_the_right_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def phases(*spans: tuple[str, float, float]) -> dict[str, float]:
            clock = _Clock(lambda: None, list(spans))
            clock.begin = 0.0
            monkeypatch.setattr(clock, "now", lambda: 20.0)
            return {phase: seconds for phase, seconds in clock.stopped().items() if seconds}

        standard = [("forward", 1, 3), ("loss", 3, 4), ("zero_grad", 6, 7), ("step", 12, 13)]
        assert phases(*standard) == {
            "forward": 2,
            "loss": 1,
            "zero_grad": 1,
            "backward": 5,
            "step": 1,
            "everything else": 1 + 2 + 7,
        }
        twice = [("zero_grad", 0, 1), ("forward", 2, 3), ("loss", 3, 4), ("forward", 9, 10), ("loss", 10, 11)]
        assert phases(*twice, ("step", 14, 20)) == {
            "zero_grad": 1,
            "forward": 2,
            "loss": 2,
            "backward": 5 + 3,
            "step": 6,
            "everything else": 1,
        }
        assert phases(("forward", 0, 2), ("loss", 2, 3)) == {"forward": 2, "loss": 1, BY_HAND: 17}


class TestTheVerb:
    def test_says_what_it_measured_and_writes_nothing(self, trainctl, tmp_path: Path) -> None:
        before = set(tmp_path.iterdir())
        outcome = trainctl("trace", "threads=1", "device=cpu", "train.clip_norm=0.1")
        result, _ = traced("threads=1", "device=cpu", "train.clip_norm=0.1")
        assert outcome.code == 0, outcome.err
        assert outcome.err == ""
        rows = {line.split()[0]: line.split() for line in outcome.out.splitlines() if line.startswith("  ")}
        assert rows["before"][1] == f"{result.loss:.6f}"
        assert rows["after"][1] == f"{result.loss_after:.6f}"
        weight = parameter(result, "layers.2.weight")
        assert [f"{value:#.4g}" for value in (weight.before, weight.after, weight.gradient)] == rows[
            "layers.2.weight"
        ][3:6]
        assert "─" not in outcome.out
        assert "\x1b" not in outcome.out
        assert set(tmp_path.iterdir()) - before <= {tmp_path / ".cache"}

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (["model=mpl"], 2, "did you mean model=mlp?"),
            (["lr=1,2"], 2, "several values"),
            (["-m", "lr=1"], 2, "sweeps go with training and plan only"),
            (["--htm", "x"], 2, "did you mean --html?"),
            (["--html"], 2, "--html: needs a value"),
            (["--html", "."], 2, "--html .: is a folder"),
            (["--html", "no/page.html"], 5, "there is no folder no"),
            (["--config-dir", "no"], 2, "there is no such folder"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_a_wrong_word_is_told(self, trainctl, words: list[str], code: int, message: str) -> None:
        outcome = trainctl("trace", *words)
        assert (outcome.code, outcome.out) == (code, "")
        assert message in outcome.err

    def test_an_added_folder_of_options_counts(self, trainctl, tmp_path: Path) -> None:
        (tmp_path / "more" / "experiment").mkdir(parents=True)
        option = "# @package _global_\nmodel:\n  hidden: [5]\n"
        (tmp_path / "more" / "experiment" / "mine.yaml").write_text(option)
        outcome = trainctl("trace", "--config-dir=more", "experiment=mine", "threads=1")
        assert outcome.code == 0, outcome.err
        assert "(64, 5)" in outcome.out


@pytest.fixture
def page(trainctl) -> tuple[str, str]:
    """A page and what the terminal says of the same step."""
    outcome = trainctl("trace", "threads=1", "model.freeze=[layers.0.bias]", "--html", "page.html")
    assert outcome.code == 0, outcome.err
    return Path("page.html").read_text(), outcome.out


class TestThePage:
    def test_says_what_the_terminal_says(self, page: tuple[str, str]) -> None:
        html, text = page
        parsed = Page(html)
        assert parsed.open == []
        for row in parsed.rows:
            for cell in filter(None, row):
                assert cell in text
        said = {row[0]: row for row in parsed.rows}
        line = next(line.split() for line in text.splitlines() if line.startswith("  layers.4.weight"))
        assert said["layers.4.weight"][2:8] == line[3:]
        assert said["layers.0.bias"][-1] == "frozen"
        finding = "layers.0.bias: no gradient: frozen by model.freeze=[layers.0.bias]"
        assert f"<li>{finding}</li>" in html

    def test_needs_nothing_from_elsewhere(self, page: tuple[str, str]) -> None:
        html, _ = page
        parsed = Page(html)
        assert parsed.references == ["data:,"]
        assert re.search(r"https?:|//|@import|url\(", html) is None
        assert "script" not in parsed.tags
        assert "prefers-color-scheme: dark" in html
        assert 'name="viewport"' in html


def test_the_names_of_others_are_text_on_the_page() -> None:
    result, _ = traced(*SMALL)
    evil = "<script>alert('x')</script>&\"\udcff"
    layers = tuple(replace(layer, kind=evil) for layer in result.layers)
    parameters = tuple(replace(each, name=evil) for each in result.parameters)
    html = render(
        replace(
            result,
            title=evil,
            layers=layers,
            parameters=parameters,
            findings=(evil,),
            settings=((evil, evil),),
        )
    )
    assert "<script" not in html
    assert "script" not in Page(html).tags
    assert html.count("&lt;script&gt;alert(&#x27;x&#x27;)") >= 5
