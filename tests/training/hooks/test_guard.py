"""A step whose loss or gradients are not finite never reaches the parameters."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.small_run import CPU, Recorder, all_equal, blobs, make_run, parameters
from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, read_checkpoint
from trainctl.checkpoint.retention import list_checkpoints
from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.optimizers._lean import make
from trainctl.components.optimizers.muon import muon
from trainctl.data import Split, Standardize
from trainctl.errors import NotFiniteError
from trainctl.lessons import scratch
from trainctl.registry.protocols import Cursor
from trainctl.training import window
from trainctl.training.buffers import Buffers
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.hooks.guard import Guard
from trainctl.training.loop import fit, train_step
from trainctl.training.run import Hook, Run
from trainctl.training.steps.accumulated import accumulated_step
from trainctl.training.steps.guarded import guarded_rung


class Breaking(nn.CrossEntropyLoss):
    """Gives ``value`` times the loss at the training steps ``at``."""

    def __init__(self, at: int | tuple[int, ...], value: float) -> None:
        super().__init__()
        self.at, self.value, self.calls = at if isinstance(at, tuple) else (at,), value, 0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().forward(outputs, targets)
        if not torch.is_grad_enabled():
            return loss
        self.calls += 1
        return loss * self.value if self.calls in self.at else loss


class _SteepFunction(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, inputs: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return inputs.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.factor, None


class Steep(nn.Module):
    """The identity, whose derivative is infinite at the training steps ``at``."""

    def __init__(self, at: int | tuple[int, ...]) -> None:
        super().__init__()
        self.at, self.calls = at if isinstance(at, tuple) else (at,), 0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return _SteepFunction.apply(inputs, math.inf if self.training and self.calls in self.at else 1.0)


class Keeping(Hook):
    """Keeps what the run is before each step, and the batches that it trained on."""

    name = "keeping"

    def __init__(self) -> None:
        self.before: list[dict[str, Any]] = []

    def start(self, run: Run) -> None:
        self.take(run)

    def step(self, run: Run, loss: Tensor) -> None:
        self.take(run)

    def take(self, run: Run) -> None:
        # Not the hooks' states: a guard is asked for its own before a checkpoint.
        self.before.append(
            {
                "model": copy.deepcopy(dict(run.model.state_dict())),
                "optimizer": copy.deepcopy(run.optimizer.state_dict()),
                "scheduler": None if run.scheduler is None else copy.deepcopy(run.scheduler.state_dict()),
                "random": torch.get_rng_state(),
                "state": {
                    name: getattr(run.state, name)
                    for name in ("step", "epoch", "position", "lr", "skipped", "epoch_samples")
                },
            }
        )


class Kept:
    """Stands where a capsule is written: notes what it is given and what the run is then."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor, str]] = []
        self.keeping = Keeping()

    def __call__(self, run: Run, inputs: Tensor, targets: Tensor, random_state: Tensor, why: str) -> str:
        self.calls.append((inputs, targets, random_state, why))
        self.keeping.take(run)
        return "runs/my run/capsules/step"


def equal(one: Any, other: Any) -> bool:
    """Equal to the last bit, also inside dictionaries and lists; NaN is equal to NaN."""
    if isinstance(one, Tensor):
        same = isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return same and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def guarded(
    guard: Guard, *hooks: Hook, steps: int = 20, loss: nn.Module | None = None, **settings: Any
) -> tuple[Run, Keeping]:
    keeping = Keeping()
    run = make_run(total_steps=steps, lr=0.25, hooks=[guard, *hooks, keeping], **settings)
    run.step = partial(train_step, guard=guard)
    if loss is not None:
        run.criterion = loss
    return run, keeping


def broken(at: int = 5, value: float = math.nan, *hooks: Hook) -> tuple[Run, Keeping]:
    return guarded(Guard(), *hooks, loss=Breaking(at, value))


def with_model(run: Run, model: nn.Module, optimizer: Callable[[Any], Any]) -> Run:
    run.model = model
    run.optimizer = optimizer(list(model.parameters()))
    return run


def steep_network(at: int | tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), Steep(at), nn.ReLU(), nn.Linear(16, 3))


def normalised_network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)
    )


sgd: Callable[[Any], Any] = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
fused_sgd: Callable[[Any], Any] = partial(make, torch.optim.SGD, lr=0.1, momentum=0.9)
fused_adam: Callable[[Any], Any] = partial(make, torch.optim.Adam, lr=0.01)


# ------------------------------------------------------------------- the loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 5, 9])
def test_it_stops_before_the_parameters_change(at: int, value: float) -> None:
    run, keeping = broken(at, value)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    assert caught.value.exit_code == 6
    assert run.state.step == at - 1
    assert equal(dict(run.model.state_dict()), keeping.before[-1]["model"])
    assert equal(run.optimizer.state_dict(), keeping.before[-1]["optimizer"])
    assert all(bool(torch.isfinite(each).all()) for each in parameters(run.model))


def test_it_names_value_step_and_learning_rate_and_a_smaller_one() -> None:
    run, _ = broken(5, math.inf)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    (problem,) = caught.value.problems
    assert problem.message == "the loss is inf at step 5 with learning rate 0.25"
    assert problem.remedy == "try a smaller one, e.g. lr=0.025, or train.clip_norm=1.0"


def test_at_the_first_step_it_does_not_blame_the_learning_rate() -> None:
    run, _ = broken(1)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    (problem,) = caught.value.problems
    assert problem.remedy.startswith("no step was taken yet")


def test_it_names_the_learning_rate_that_the_scheduler_has_set() -> None:
    run, _ = broken(3)
    run.scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1 / (step + 1))
    with pytest.raises(NotFiniteError, match=r"at step 3 with learning rate 0\.0833"):
        fit(run)


def test_other_hooks_see_no_step_of_it() -> None:
    recorder = Recorder()
    run, _ = broken(4, math.nan, recorder, ClipNorm(1.0))
    with pytest.raises(NotFiniteError):
        fit(run)
    assert recorder.events == ["start", "step 1", "step 2", "step 3"]


def test_a_validation_loss_that_is_not_finite_stops_nothing() -> None:
    class Odd(nn.CrossEntropyLoss):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().forward(outputs, targets)
            return loss if torch.is_grad_enabled() else loss * math.nan

    recorder = Recorder()
    run, _ = guarded(Guard(), recorder, steps=8, loss=Odd())
    fit(run)
    assert run.state.step == 8
    assert math.isnan(recorder.values[0]["val/loss"])


@pytest.mark.parametrize(
    "guard",
    [Guard(), Guard(gradients=True), Guard(max_skipped_steps=3), Guard(gradients=True, deferred=True)],
    ids=["default", "full", "skipping", "deferred"],
)
def test_a_finite_run_is_the_same_with_and_without(guard: Guard) -> None:
    runs = [make_run(total_steps=70, hooks=hooks) for hooks in ([guard], [])]
    runs[0].step = partial(train_step, guard=guard)
    for run in runs:
        with_model(run, normalised_network(dropout=0.3), fused_adam)
        torch.manual_seed(1)
        fit(run)
    one, other = (dict(run.model.state_dict()) for run in runs)
    assert equal(one, other)
    assert equal(runs[0].optimizer.state_dict(), runs[1].optimizer.state_dict())


# ------------------------------------------------------------------- gradients


def test_an_infinite_gradient_of_a_finite_loss_stops_before_the_step() -> None:
    run, keeping = guarded(Guard(gradients=True), ClipNorm(1.0))
    with_model(run, steep_network(5), sgd)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    assert run.state.step == 4
    assert equal(dict(run.model.state_dict()), keeping.before[-1]["model"])
    (problem,) = caught.value.problems
    assert problem.message.startswith("the gradient of 0.weight and of 1 more is not finite (loss ")
    assert problem.message.endswith(" at step 5 with learning rate 0.1")
    assert "derivative" in problem.remedy


def test_large_finite_gradients_pass_although_their_sum_overflows() -> None:
    class LargeFunction(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, inputs: Tensor) -> Tensor:
            return inputs.clone()

        @staticmethod
        def backward(context: Any, gradient: Tensor) -> Tensor:
            return torch.full_like(gradient, 1e37)

    class Large(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return LargeFunction.apply(inputs)

    run, _ = guarded(Guard(gradients=True), steps=1, samples=8)
    model = nn.Sequential(nn.Linear(6, 64), Large(), nn.Linear(64, 3))
    with_model(run, model, partial(torch.optim.SGD, lr=1e-40))
    fit(run)
    assert run.state.step == 1
    gradient = model[0].bias.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    assert not bool(torch.isfinite(gradient.sum()))


def test_sparse_gradients_are_checked() -> None:
    class Words(nn.Module):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.words, self.steep, self.out = nn.Embedding(9, 4, sparse=True), Steep(at), nn.Linear(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.out(self.steep(self.words((inputs.abs() * 2).long().clamp(max=8)).mean(1)))

    run, _ = guarded(Guard(gradients=True))
    with_model(run, Words(3), partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(NotFiniteError, match=r"gradient of words\.weight is not finite .* at step 3 "):
        fit(run)


# ------------------------------------------------------------------- skip


def batches_of(run: Run, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while steps > 0:
        for inputs, targets, *_ in run.train_loader.batches(Cursor(epoch)):
            yield inputs, targets
            steps -= 1
            if not steps:
                return
        epoch += 1


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("deferred", [None, True])
def test_bad_steps_are_left_out_and_nothing_else_changes(
    gradients: bool, deferred: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    bad = (1, 4, 9)
    recorder = Recorder()
    sgd = fused_sgd
    run, _ = guarded(Guard(gradients=gradients, max_skipped_steps=3, deferred=deferred), recorder, steps=12)
    make_model = partial(steep_network, bad) if gradients else partial(steep_network, ())
    with_model(run, make_model(), sgd)
    run.criterion = nn.CrossEntropyLoss() if gradients else Breaking(bad, math.nan)
    run.scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 5, 0.5)
    with caplog.at_level(logging.WARNING, "trainctl"):
        fit(run)
    assert (run.state.step, run.state.skipped) == (12, 3)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"step {step} left out" for step in bad
    ]
    assert caplog.records[-1].getMessage().endswith("(3 of 3)")
    # A loss that was finite is logged as it is.
    finite = [math.isfinite(loss) for loss in recorder.losses]
    assert finite == [gradients or step not in bad for step in range(1, 13)]

    by_hand = steep_network(())
    optimizer = sgd(list(by_hand.parameters()))
    for step, (inputs, targets) in enumerate(batches_of(run, 12), 1):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.5 ** ((step - 1) // 5)
        if step in bad:
            continue
        loss = nn.functional.cross_entropy(by_hand(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all_equal(parameters(run.model), parameters(by_hand))


def test_one_more_than_may_be_left_out_stops() -> None:
    run, _ = guarded(Guard(max_skipped_steps=2), loss=Breaking((3, 5, 8), math.nan))
    with pytest.raises(NotFiniteError, match="at step 8 "):
        fit(run)
    assert run.state.skipped == 2


def test_a_step_left_out_leaves_no_trace_in_running_statistics() -> None:
    """The forward pass of a batch with a NaN makes them NaN."""
    run, keeping = guarded(Guard(max_skipped_steps=1), steps=14)
    with_model(run, normalised_network(), sgd)
    inputs = run.train_loader.split.inputs.clone()
    inputs[10, 2] = math.nan
    run.train_loader = ResidentLoader(
        Split(inputs, run.train_loader.split.targets), Standardize(), 8, CPU, seed=0
    )
    run.hooks[0].max_skipped_steps = 2  # once an epoch
    fit(run)
    assert run.state.skipped == 2
    assert all(bool(torch.isfinite(each).all()) for each in run.model.state_dict().values())
    counts = [int(each["model"]["1.num_batches_tracked"]) for each in keeping.before]
    assert counts[-1] == 12
    assert counts[0] == 0


def test_a_buffer_that_changes_now_and_then_is_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.odd: Tensor
            self.register_buffer("odd", torch.zeros(()))
            self.register_buffer("constant", torch.ones(3))
            self.register_buffer("none", None)

        def forward(self, inputs: Tensor) -> Tensor:
            if self.training:
                self.calls += 1
                self.odd += self.calls % 2
            return inputs

    run, keeping = guarded(Guard(), loss=Breaking(5, math.nan))
    with_model(run, nn.Sequential(nn.Linear(6, 3), Counting()), sgd)
    with pytest.raises(NotFiniteError, match="at step 5 "):
        fit(run)
    assert [int(each["model"]["1.odd"]) for each in keeping.before] == [0, 1, 1, 2, 2]
    assert int(run.model.state_dict()["1.odd"]) == 2


# ------------------------------------------------------------------- the capsule


def test_what_is_kept_is_the_batch_and_the_run_before_the_step() -> None:
    kept = Kept()
    guard = Guard()
    run, keeping = guarded(guard, loss=Breaking(5, math.nan))
    guard.keep = kept
    with_model(run, normalised_network(dropout=0.5), sgd)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    ((inputs, targets, random_state, why),) = kept.calls
    assert equal([inputs, targets], list(list(batches_of(run, 5))[-1]))
    assert why == "the loss is nan"
    before, then = keeping.before[4], kept.keeping.before[0]
    assert equal(random_state, before["random"])
    assert not equal(then["random"], before["random"])  # dropout has drawn
    for part in ("model", "optimizer", "state"):
        assert equal(then[part], before[part]), part
    assert caught.value.problems[0].remedy.endswith(
        "; see where it begins: trainctl replay 'runs/my run/capsules/step'"
    )


def test_a_capsule_that_cannot_be_written_does_not_hide_why_the_run_stopped() -> None:
    def full(*arguments: Any) -> str:
        raise OSError(28, "No space left on device")

    guard = Guard()
    run, _ = guarded(guard, loss=Breaking(5, math.nan))
    guard.keep = full
    with pytest.raises(NotFiniteError, match="at step 5 ") as caught:
        fit(run)
    assert "No space left on device" in caught.value.problems[0].remedy


# ------------------------------------------------------------------- other steps and parts


@pytest.mark.parametrize("skip", [0, 1])
def test_one_bad_batch_makes_a_window_of_batches_bad(skip: int) -> None:
    kept = Kept()
    guard = Guard(max_skipped_steps=skip)
    # Windows of 24 are 3 batches of 8: the 8th batch is the second of the third window.
    run, keeping = guarded(guard, loss=Breaking(8, math.nan), steps=5, batch_size=24, samples=120)
    run.step = partial(accumulated_step, cut=lambda window: torch.split(window, 8), guard=guard)
    guard.keep = kept
    if skip:
        fit(run)
        assert run.state.skipped == 1
        assert equal(keeping.before[3]["model"], keeping.before[2]["model"])
        assert not equal(keeping.before[4]["model"], keeping.before[3]["model"])
        return
    with pytest.raises(NotFiniteError, match="at step 3 "):
        fit(run)
    assert kept.calls[0][0].shape == (24, 6)
    assert equal(dict(run.model.state_dict()), keeping.before[2]["model"])


@pytest.mark.parametrize("gradients", [False, True])
def test_scratch_parts_are_guarded(gradients: bool) -> None:
    class ScratchSteep(scratch.Module):
        def __init__(self, at: int) -> None:
            super().__init__()
            self.at, self.calls = at, 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += self.training
            return _SteepFunction.apply(inputs, math.inf if self.training and self.calls == self.at else 1.0)

    class ScratchBreaking(scratch.CrossEntropy):
        calls = 0

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.calls += torch.is_grad_enabled()
            factor = math.nan if self.calls == 4 and not gradients else 1.0
            return super().forward(outputs, targets) * factor

    torch.manual_seed(0)
    run, keeping = guarded(Guard(gradients=gradients))
    model = scratch.Sequential(
        scratch.Linear(6, 8), ScratchSteep(4 if gradients else 0), scratch.Linear(8, 3)
    )
    run.model, run.criterion = model, ScratchBreaking()
    run.optimizer = scratch.Adam(model.parameters(), lr=0.01)
    with pytest.raises(NotFiniteError, match="at step 4 "):
        fit(run)
    assert equal(dict(model.state_dict()), keeping.before[3]["model"])


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.Adagrad,
        torch.optim.Rprop,
        muon,
        partial(torch.optim.Adam, lr=0.01, foreach=True),
        partial(torch.optim.AdamW, lr=0.01, fused=True),
    ],
    ids=["adagrad", "rprop", "muon", "foreach", "fused"],
)
@pytest.mark.parametrize("deferred", [None, True])
def test_any_optimizer_is_kept_from_the_step(optimizer: Callable[[Any], Any], deferred: bool | None) -> None:
    run, keeping = guarded(Guard(gradients=True, deferred=deferred))
    with_model(run, steep_network(5), optimizer)
    with pytest.raises(NotFiniteError, match="at step 5 "):
        fit(run)
    assert equal(dict(run.model.state_dict()), keeping.before[4]["model"])
    assert equal(run.optimizer.state_dict(), keeping.before[4]["optimizer"])


# ------------------------------------------------------------------- deferred


def deferred_run(
    guard: Guard, optimizer: Callable[[Any], Any], *hooks: Hook, loss: nn.Module, steps: int = 200
) -> tuple[Run, Keeping, Kept]:
    """25 steps an epoch, so that windows of 50 end in an epoch and at its end."""
    kept = Kept()
    guard.keep = kept
    run, keeping = guarded(guard, *hooks, steps=steps, samples=200, val=0)
    with_model(run, normalised_network(dropout=0.3), optimizer)
    run.criterion = loss
    run.scheduler = torch.optim.lr_scheduler.OneCycleLR(run.optimizer, 0.02, total_steps=201)
    return run, keeping, kept


@pytest.mark.parametrize("optimizer", [fused_adam, fused_sgd], ids=["adam", "sgd"])
@pytest.mark.parametrize(("at", "samples"), [(1, 200), (2, 200), (3, 200), (25, 200), (27, 200), (60, 2400)])
def test_deferred_it_is_as_if_it_had_been_found_at_once(
    optimizer: Callable[[Any], Any], at: int, samples: int
) -> None:
    run, keeping, kept = deferred_run(Guard(deferred=True), optimizer, loss=Breaking(at, math.nan))
    run.train_loader = ResidentLoader(blobs(samples), Standardize(), 8, CPU, seed=0)
    torch.manual_seed(3)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    if at > 1:
        assert at < len(keeping.before) <= at + 100, "read at once, or too late"
    before, then = keeping.before[at - 1], kept.keeping.before[0]
    for part in ("model", "scheduler", "state"):
        assert equal(then[part], before[part]), part
    for part in ("state", "param_groups"):
        assert equal(then["optimizer"][part], before["optimizer"][part]), part
    ((inputs, targets, random_state, why),) = kept.calls
    assert equal([inputs, targets], list(list(batches_of(run, at))[-1]))
    assert equal(random_state, before["random"])
    assert why == "the loss is nan"
    lr = before["optimizer"]["param_groups"][0]["lr"]
    assert caught.value.problems[0].message == f"the loss is nan at step {at} with learning rate {lr:g}"


@pytest.mark.parametrize(("seconds", "buffers", "expected"), [(0.0, 0, 500), (0.1, 0, 50), (0.0, 1, 50)])
def test_the_flag_is_read_less_often_where_steps_are_short(
    seconds: float, buffers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By time, and not where copies are kept. A bad step is known at the end of the next part."""
    clock = iter(range(10_000))
    monkeypatch.setattr(window.time, "monotonic", lambda: next(clock) * seconds)
    run, _ = guarded(Guard(deferred=True))
    judged = window.Window(fused_adam(run.model.parameters()), Buffers(run.model), CPU)
    before = window.Before((0, 0, 0, 0.1), torch.get_rng_state(), [torch.zeros(2)] * buffers)
    judged.enter(run)
    judged.flag(torch.tensor(math.nan))
    count = 1
    while not judged.leave(before, torch.zeros(())):
        judged.enter(run)
        count += 1
    assert count == 2 * expected


def test_deferred_steps_that_were_fine_are_forgotten() -> None:
    """Else a run's losses, and its copies of buffers, would pile up until the end of an epoch."""

    class Counting(Hook):
        most = 0

        def step(self, run: Run, loss: Tensor) -> None:
            parts = () if guard._window is None else guard._window._parts
            self.most = max(self.most, sum(len(part.steps) for part in parts))

    guard, counting = Guard(deferred=True), Counting()
    run, _ = guarded(guard, counting, samples=3200, val=0, steps=380)
    with_model(run, normalised_network(dropout=0.3), fused_adam)
    fit(run)
    assert 50 < counting.most <= 100


@pytest.mark.parametrize("at", [2, 30])
def test_deferred_the_first_bad_gradient_is_named(at: int) -> None:
    run, keeping = guarded(Guard(gradients=True, deferred=True), ClipNorm(1.0), samples=800, val=0, steps=99)
    with_model(run, steep_network((at, at + 3)), fused_adam)
    with pytest.raises(NotFiniteError) as caught:
        fit(run)
    message = caught.value.problems[0].message
    assert message.startswith("the gradient of 0.weight and of 1 more is not finite (loss ")
    assert message.endswith(f" at step {at} with learning rate 0.01")
    assert equal(dict(run.model.state_dict()), keeping.before[at - 1]["model"])
    assert len(keeping.before) > at


def test_deferred_no_checkpoint_is_written_after_a_bad_step(tmp_path: Any) -> None:
    def hold(run: Run, copied: bool) -> Callable[[], CheckpointData]:
        content = snapshot.take(run.model.state_dict(), run.state.state_dict(), run.parts())
        return lambda: content

    saving = Checkpointer(tmp_path / "checkpoints", hold, every_steps=10, keep_last=9)
    run, _, kept = deferred_run(Guard(deferred=True), fused_adam, saving, loss=Breaking(13, math.nan))
    with pytest.raises(NotFiniteError, match="at step 13 "):
        fit(run)
    assert len(kept.calls) == 1
    assert [each.name for each in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000010"]
    # Saved again, as after an interruption: what it gives now is the run before the step.
    run.save()
    assert hold(run, True)().step == 12


def test_deferred_an_evaluation_is_not_begun_after_a_bad_step() -> None:
    recorder = Recorder()
    run, _, _ = deferred_run(Guard(deferred=True), fused_adam, recorder, loss=Breaking(24, math.nan))
    run.val_loader = ResidentLoader(blobs(20, 1), Standardize(), 8, CPU, None)
    with pytest.raises(NotFiniteError, match="at step 24 "):
        fit(run)
    assert recorder.events[-1] == "step 25"


def test_deferred_a_bad_step_that_something_else_broke_off_is_not_among_those_taken() -> None:
    class Interrupted(Breaking):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            loss = super().forward(outputs, targets)
            loss.register_hook(self.interrupt)
            return loss

        def interrupt(self, gradient: Tensor) -> None:
            if self.calls in self.at:
                raise KeyboardInterrupt

    guard = Guard(deferred=True)
    run, _, kept = deferred_run(guard, fused_adam, loss=Interrupted(7, math.nan))
    with pytest.raises(KeyboardInterrupt):
        fit(run)
    assert guard.state_dict() == {}
    assert not kept.calls
    assert run.state.step == 6


def test_deferred_the_flag_goes_when_the_run_ends() -> None:
    guard = Guard(deferred=True)
    run, _, _ = deferred_run(guard, fused_adam, loss=nn.CrossEntropyLoss(), steps=9)
    seen = []

    class Looking(Hook):
        name = "looking"

        def step(self, run: Run, loss: Tensor) -> None:
            seen.append(hasattr(run.optimizer, "found_inf"))

    run.hooks.append(Looking())
    fit(run)
    assert all(seen)
    assert not hasattr(run.optimizer, "found_inf")


def test_a_loop_that_updates_by_hand_is_waited_for() -> None:
    """No flag keeps its steps from the parameters."""

    def by_hand(
        model: Any, criterion: Any, optimizer: Any, inputs: Tensor, targets: Tensor, _: Any
    ) -> Tensor:
        loss = criterion(model(inputs), targets)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        return loss.detach()

    guard = Guard(deferred=False)
    run, keeping = guarded(guard, loss=Breaking(5, math.nan))
    with_model(run, normalised_network(), fused_sgd)
    run.step = guarded_rung(by_hand, guard)
    with pytest.raises(NotFiniteError, match="at step 5 "):
        fit(run)
    assert run.state.step == 4
    assert equal(dict(run.model.state_dict()), keeping.before[4]["model"])


# ------------------------------------------------------------------- whole runs

DATA = '''
import torch
from trainctl.data import Data, Split
from trainctl.registry import DATASETS


@DATASETS.register("holed")
def holed(rows: int = 1) -> Data:
    """A NaN in some of the training samples; no validation sample has one."""
    generator = torch.Generator().manual_seed(0)
    def split(count):
        inputs = torch.randn(count, 6, generator=generator)
        return Split(inputs, (inputs[:, 0] > 0).long())
    train, val = split(128), split(32)
    train.inputs[:rows, 3] = float("nan")
    return Data(name="holed", task="classification", train=train, val=val, test=None, input_shape=(6,),
                output_size=2, classes=("0", "1"), transform=torch.nn.Identity())
'''
HOLED = ("plugins=[holed.py]", "dataset.name=holed", "batch_size=16", "threads=1")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("train.accumulate=2",),
        ("train.precision=bf16",),
        ("model=scratch_mlp", "optim=scratch_adam", "loss=scratch_cross_entropy"),
        ("loop=layers", "optim=sgd"),
        ("loop=parameters", "optim=sgd"),
        ("loop=autograd", "model=linear", "optim=sgd"),
        ("loop=lightning",),
        ("optim=muon", "guard=full"),
        ("loader=scratch",),
        ("scheduler=cosine", "model.normalization=batch"),
    ],
    ids=lambda words: " ".join(words) or "default",
)
@pytest.mark.slow
def test_a_nan_in_the_data_ends_the_run_and_leaves_a_capsule(trainctl, tmp_path: Any, words: Any) -> None:
    if "loop=lightning" in words:
        pytest.importorskip("lightning")
    (tmp_path / "holed.py").write_text(DATA)
    outcome = trainctl(*HOLED, "hydra.run.dir=run", "epochs=2", *words)
    assert outcome.code == 6, outcome.err
    assert "the loss is nan at step " in outcome.err
    assert not list(tmp_path.glob("run/checkpoints/*"))
    (capsule,) = tmp_path.glob("run/capsules/*")
    step = int(capsule.name.removeprefix("step-"))
    assert f"at step {step} " in outcome.err
    assert f"trainctl replay run/capsules/{capsule.name}" in outcome.err
    values = read_checkpoint(capsule)
    assert all(bool(torch.isfinite(each).all()) for each in values.model.values())
    assert values.step == step - 1
    assert not bool(torch.isfinite(values.training["batch.inputs"]).all())


def test_steps_left_out_are_counted_through_a_resume(trainctl, tmp_path: Any) -> None:
    (tmp_path / "holed.py").write_text(DATA)
    words = (*HOLED, "guard.skip=3", "hydra.run.dir=run", "model.normalization=batch")
    outcome = trainctl(*words, "epochs=2")
    assert outcome.code == 0, outcome.err
    assert "2 steps were left out" in outcome.out
    assert json.loads((tmp_path / "run/run.json").read_text())["skipped"] == 2
    outcome = trainctl("resume", "run", "train.epochs=3")
    assert outcome.code == 0, outcome.err
    assert json.loads((tmp_path / "run/run.json").read_text())["skipped"] == 3
    assert (tmp_path / "run/train.log").read_text().count("left out: the loss is nan") == 3
    outcome = trainctl("resume", "run", "train.epochs=4")
    assert outcome.code == 6
    (capsule,) = tmp_path.glob("run/capsules/*")
    assert read_checkpoint(capsule).state["skipped"] == 3


# ------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("at", [3, 49, 50, 51, 99])
@pytest.mark.parametrize("gradients", [False, True])
def test_on_a_gpu_the_first_bad_step_is_named(at: int, gradients: bool) -> None:
    device = torch.device("cuda")
    run, keeping = guarded(Guard(gradients=gradients), steps=200, val=0, samples=2000)
    model = steep_network(at if gradients else ()).to(device)
    with_model(run, model, fused_adam)
    run.criterion = nn.CrossEntropyLoss() if gradients else Breaking(at, math.nan)
    run.train_loader = ResidentLoader(blobs(2000), Standardize(), 8, device, 0)
    with pytest.raises(NotFiniteError, match=f"at step {at} "):
        fit(run)
    assert run.state.step == at - 1
    # None is waited for, but 51 is the last of 50 that are judged together after the first step.
    assert len(keeping.before) > at or at == 51
    before = {name: tensor.cpu() for name, tensor in keeping.before[at - 1]["model"].items()}
    assert equal({name: tensor.cpu() for name, tensor in model.state_dict().items()}, before)
