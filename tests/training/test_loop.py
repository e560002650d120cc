"""The loop does what the same lines written by hand do, and hooks see it in order."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.small_run import (
    CPU,  # noqa: F401 - tests/hooks/test_guard.py takes it from here
    FP32,
    Recorder,
    all_equal,
    blobs,
    make_run,
    network,
    parameters,
)
from trainctl.components.loaders.resident import epoch_order
from trainctl.components.metrics.accuracy import Accuracy
from trainctl.components.metrics.mae import MeanAbsoluteError
from trainctl.components.metrics.mse import MeanSquaredError
from trainctl.components.metrics.r2 import R2
from trainctl.data import Split
from trainctl.training.loop import evaluate, evaluate_split, fit, train_step
from trainctl.training.run import Hook, Run

# ------------------------------------------------------------------- train_step


OPTIMIZERS = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
    "fused": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
}


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_step_is_the_same_four_lines_by_hand(optimizer: str, dropout: float) -> None:
    ours, theirs = network(dropout=dropout), network(dropout=dropout)
    criterion = nn.CrossEntropyLoss()
    our_optimizer, their_optimizer = OPTIMIZERS[optimizer](ours), OPTIMIZERS[optimizer](theirs)
    batches = [blobs(8, seed) for seed in range(6)]

    torch.manual_seed(5)
    losses = [
        train_step(ours, criterion, our_optimizer, batch.inputs, batch.targets, FP32) for batch in batches
    ]

    torch.manual_seed(5)
    for batch, recorded in zip(batches, losses, strict=True):
        loss = criterion(theirs(batch.inputs), batch.targets)
        their_optimizer.zero_grad()
        loss.backward()
        their_optimizer.step()
        assert torch.equal(loss, recorded)
        assert recorded.shape == ()
        assert not recorded.requires_grad
    assert all_equal(parameters(ours), parameters(theirs))


def test_precision_covers_the_forward_pass_only() -> None:
    model, batch = network(), blobs(8)
    seen: list[torch.dtype] = []
    model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.dtype))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    precision = torch.autocast("cpu", dtype=torch.bfloat16)
    for _ in range(2):
        train_step(model, nn.CrossEntropyLoss(), optimizer, batch.inputs, batch.targets, precision)
    assert seen == [torch.bfloat16] * 2
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert {each.grad.dtype for each in model.parameters() if each.grad is not None} == {torch.float32}


# --------------------------------------------------------------------- evaluate


def batched(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(split), size):
        yield split.inputs[start : start + size], split.targets[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 31, 64])
def test_evaluating_a_classifier_is_exact_for_any_last_batch(size: int) -> None:
    split, model = blobs(31), network(dropout=0.5)
    values = evaluate(model, nn.CrossEntropyLoss(), batched(split, size), {"accuracy": Accuracy}, FP32)
    wide = copy.deepcopy(model).eval().double()
    outputs = wide(split.inputs.double())
    assert values["loss"] == pytest.approx(
        nn.functional.cross_entropy(outputs, split.targets).item(), abs=1e-6
    )
    assert values["accuracy"] == (outputs.argmax(1) == split.targets).double().mean().item()


@pytest.mark.parametrize("size", [1, 5, 29])
def test_evaluating_a_regression_is_exact_for_any_last_batch(size: int) -> None:
    torch.manual_seed(3)
    model = nn.Linear(4, 2)
    split = Split(torch.randn(29, 4), torch.randn(29, 2))
    metrics: Any = {"mse": MeanSquaredError, "mae": MeanAbsoluteError, "r2": R2}
    values = evaluate(model, nn.MSELoss(), batched(split, size), metrics, FP32)
    outputs, targets = copy.deepcopy(model).double()(split.inputs.double()), split.targets.double()
    error = (outputs - targets).square()
    deviation = (targets - targets.mean(0)).square().sum(0)
    assert values["loss"] == pytest.approx(error.mean().item(), abs=1e-6)
    assert values["mse"] == pytest.approx(error.mean().item(), abs=1e-6)
    assert values["mae"] == pytest.approx((outputs - targets).abs().mean().item(), abs=1e-6)
    assert values["r2"] == pytest.approx((1 - error.sum(0) / deviation).mean().item(), abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_changes_neither_mode_nor_parameters_nor_gradients_nor_random_state(
    training: bool,
) -> None:
    model = network(dropout=0.5)
    model.insert(1, nn.BatchNorm1d(16))  # type: ignore[operator]
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    evaluate(model, nn.CrossEntropyLoss(), batched(blobs(20), 8), {}, FP32)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_before_is_back_after_an_exception(training: bool, error: type[BaseException]) -> None:
    model = network().train(training)

    def failing() -> Iterator[tuple[Tensor, Tensor]]:
        yield blobs(4).inputs, blobs(4).targets
        assert not model.training
        raise error("the batches ended early")

    with pytest.raises(error, match="ended early"):
        evaluate(model, nn.CrossEntropyLoss(), failing(), {}, FP32)
    assert model.training is training
    assert torch.is_grad_enabled()


def test_metrics_get_full_precision_outputs_also_under_autocast() -> None:
    seen: list[torch.dtype] = []

    class Watcher(Accuracy):
        def update(self, outputs: Tensor, targets: Tensor) -> None:
            seen.append(outputs.dtype)
            super().update(outputs, targets)

    precision = torch.autocast("cpu", dtype=torch.bfloat16)
    values = evaluate(network(), nn.CrossEntropyLoss(), batched(blobs(20), 8), {"a": Watcher}, precision)
    assert set(seen) == {torch.float32}
    assert 0 <= values["a"] <= 1


def test_each_evaluation_starts_from_nothing() -> None:
    run = make_run()
    assert run.val_loader is not None
    first = evaluate_split(run, "val", run.val_loader)
    assert evaluate_split(run, "val", run.val_loader) == first
    assert set(first) == {"val/loss", "val/accuracy"}


# -------------------------------------------------------------------------- fit


def test_training_is_the_loop_written_by_hand() -> None:
    """Bit for bit: parameters, losses and learning rates of two and a half epochs with dropout."""
    recorder = Recorder()
    run = make_run(total_steps=18, hooks=[recorder], dropout=0.3)
    run.scheduler = torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.9)
    torch.manual_seed(7)
    fit(run)

    model = network(dropout=0.3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    split, losses, rates = blobs(50), [], []
    torch.manual_seed(7)
    for epoch in range(3):
        order = epoch_order(50, 0, epoch)
        for start in range(0, 50, 8):
            if len(losses) == 18:
                break
            index = order[start : start + 8]
            loss = nn.functional.cross_entropy(model(split.inputs[index]), split.targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    assert recorder.losses == losses
    assert recorder.rates == rates
    assert all_equal(parameters(run.model), parameters(model))


def test_hooks_are_called_in_the_order_that_is_drawn() -> None:
    recorder = Recorder()
    fit(make_run(total_steps=4, samples=24, val=20, hooks=[recorder]))
    assert recorder.events == [
        "start",
        *("step 1", "step 2", "step 3", "poll", "poll", "poll", "evaluated 1 0"),
        *("step 4", "poll", "poll", "poll", "evaluated 1 8"),
        "end",
    ]


def test_hooks_of_one_event_are_called_in_their_order() -> None:
    calls: list[str] = []

    class Named(Hook):
        def __init__(self, name: str) -> None:
            self.name = name

        def step(self, run: Run, loss: Tensor) -> None:
            calls.append(self.name)

    fit(make_run(total_steps=2, hooks=[Named("a"), Hook(), Named("b")]))
    assert calls == ["a", "b", "a", "b"]


def test_without_validation_the_evaluation_has_no_values() -> None:
    recorder = Recorder()
    fit(make_run(total_steps=14, val=0, hooks=[recorder]))
    assert recorder.values == [{}, {}]


@pytest.mark.parametrize(
    ("steps", "epoch", "position", "where"),
    [
        (1, 0, 8, {"step": 1, "epoch": 1}),
        (6, 0, 48, {"step": 6, "epoch": 1}),
        (7, 1, 0, {"step": 7, "epoch": 1}),
        (8, 1, 8, {"step": 8, "epoch": 2}),
        (10, 1, 24, {"step": 10, "epoch": 2}),
        (14, 2, 0, {"step": 14, "epoch": 2}),
    ],
)
def test_training_ends_at_the_last_step_and_the_cursor_says_where(
    steps: int, epoch: int, position: int, where: dict[str, int]
) -> None:
    recorder = Recorder()
    run = make_run(total_steps=steps, hooks=[recorder])
    fit(run)
    assert len(recorder.losses) == steps
    assert (run.state.step, run.state.epoch, run.state.position) == (steps, epoch, position)
    assert run.state.where == where
    assert recorder.events[-2:] == [f"evaluated {epoch} {position}", "end"]


@pytest.mark.parametrize("cut", [3, 7, 9])
def test_training_continues_from_its_cursor_bit_for_bit(cut: int) -> None:
    whole, parts = make_run(total_steps=16), make_run(total_steps=cut)
    fit(whole)
    fit(parts)
    parts.total_steps = 16
    fit(parts)
    assert all_equal(parameters(whole.model), parameters(parts.model))
    assert whole.state == parts.state


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, run: Run, loss: Tensor) -> None:
        if run.state.step == self.at:
            run.state.stop = "enough"


@pytest.mark.parametrize("step", [2, 7, 9])
def test_a_hook_can_stop_training_after_any_step(step: int) -> None:
    recorder = Recorder()
    run = make_run(total_steps=30, hooks=[StopAt(step), recorder])
    fit(run)
    assert run.state.step == step
    assert len(recorder.losses) == step
    assert recorder.events[-2].startswith("evaluated")
    assert recorder.events[-1] == "end"


def test_a_run_that_is_done_takes_no_step() -> None:
    recorder = Recorder()
    run = make_run(total_steps=3, hooks=[recorder])
    run.state.step = run.state.evaluated = 3
    before = parameters(run.model)
    fit(run)
    assert recorder.events == ["start", "end"]
    assert all_equal(before, parameters(run.model))


def test_a_run_that_lacks_its_last_evaluation_only_evaluates() -> None:
    recorder = Recorder()
    run = make_run(total_steps=3, hooks=[recorder])
    run.state.step, run.state.position = 3, 24
    before = parameters(run.model)
    fit(run)
    assert not any(event.startswith("step") for event in recorder.events)
    assert any(event.startswith("evaluated") for event in recorder.events)
    assert run.state.evaluated == 3
    assert all_equal(before, parameters(run.model))


def test_the_model_trains_in_training_mode_and_is_judged_in_evaluation_mode() -> None:
    modes: list[tuple[str, bool]] = []

    class Watcher(Hook):
        def step(self, run: Run, loss: Tensor) -> None:
            modes.append(("step", run.model.training))

        def poll(self, run: Run) -> None:
            modes.append(("poll", run.model.training))

    run = make_run(total_steps=9, hooks=[Watcher()])
    run.model.eval()
    fit(run)
    assert set(modes) == {("step", True), ("poll", False)}


def test_training_time_and_samples_are_those_of_the_epoch_that_ended() -> None:
    seen: list[tuple[int, float]] = []

    class Watcher(Hook):
        def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
            seen.append((run.state.epoch_samples, run.state.epoch_seconds))

    fit(make_run(total_steps=9, hooks=[Watcher()]))
    assert [samples for samples, _ in seen] == [50, 16]
    assert all(0 < seconds < 60 for _, seconds in seen)
