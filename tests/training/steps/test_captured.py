"""The captured step takes the steps of the plain one, wherever it is recorded.

Without a GPU a tape stands in the graph's place. It records what CUDA would, the operations and not the
Python around them, refuses what CUDA would, and repeats them on the same memory.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.small_run import CPU, Recorder, blobs, make_run
from tests.helpers.tape import Tape
from trainctl.components.loaders import resident
from trainctl.components.loaders.resident import ResidentLoader
from trainctl.components.optimizers._lean import make
from trainctl.components.schedulers.cosine import cosine
from trainctl.components.schedulers.one_cycle import one_cycle
from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.data import Standardize
from trainctl.errors import NotFiniteError
from trainctl.registry.protocols import Cursor
from trainctl.training import cuda_graph
from trainctl.training.build import build
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.hooks.ema import Ema
from trainctl.training.hooks.guard import Guard
from trainctl.training.loop import fit, train_step
from trainctl.training.run import Hook, Run
from trainctl.training.steps.accumulated import accumulated_step
from trainctl.training.steps.captured import WARM, CapturedStep, CudaGraph, _Rates
from trainctl.training.steps.choose import Step

adam = partial(make, torch.optim.Adam, lr=0.01)
exact_adam = partial(make, torch.optim.Adam, lr=2.0**-7)
adamw = partial(make, torch.optim.AdamW, lr=0.01, weight_decay=0.1)
sgd = partial(make, torch.optim.SGD, lr=0.1)
momentum = partial(make, torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)


class Losses(Hook):
    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def step(self, run: Run, loss: Tensor) -> None:
        self.losses.append(loss)

    @property
    def values(self) -> Tensor:
        return torch.stack(self.losses).cpu()


def network() -> nn.Module:
    torch.manual_seed(0)
    # A bias before normalisation has rounding errors for a gradient, which Adam makes steps of.
    layers = nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)
    return nn.Sequential(*layers)


def prepared(
    optimizer: Callable[[Any], Any],
    *hooks: Hook,
    steps: int = 200,
    scheduler: Callable[..., Any] | None = None,
    device: torch.device = CPU,
) -> tuple[Run, Losses]:
    """Batches of 8 of 100 samples: 13 an epoch, the last one of 4."""
    run = make_run(steps, hooks=hooks)
    run.model = network().to(device)
    run.optimizer = optimizer(run.model.parameters())
    run.scheduler = None if scheduler is None else scheduler(run.optimizer, total_steps=steps)
    run.train_loader = ResidentLoader(blobs(100), Standardize(), 8, device, seed=0)
    run.val_loader = ResidentLoader(blobs(20, 1), Standardize(), 8, device, None)
    losses = Losses()
    run.hooks.append(losses)
    torch.manual_seed(5)
    return run, losses


def captured(run: Run, graphs: list[Any], said: list[tuple[str, str]], graph: Any = None) -> Run:
    """The run with its step captured, its guard's included."""
    graphs.append(Tape(CPU) if graph is None else graph)

    def failed(reason: str) -> None:
        said.append(cuda_graph._without(reason))

    if (reused := run.train_loader.reuse()) is not None:
        run.batches = reused.batches
    run.step = CapturedStep(guarded(run).step, 8, graphs[-1], failed, reused=reused)
    return run


def guarded(run: Run) -> Run:
    if (guard := run.hook("guard")) is not None:
        run.step = partial(train_step, guard=guard)
    return run


@pytest.fixture
def graphs() -> list[Tape]:
    return []


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


def both(
    optimizer: Callable[[Any], Any],
    graphs: list[Tape],
    said: list[tuple[str, str]],
    change: Callable[[Run], None] = lambda run: None,
    hooks: Callable[[], list[Hook]] = list,
    **arguments: Any,
) -> tuple[Run, Losses, Run, Losses]:
    """A plain run and a captured one, ``change`` made to each before it trains, with their losses."""
    found: list[Any] = []
    for is_captured in (False, True):
        run, losses = prepared(optimizer, *hooks(), **arguments)
        change(run)
        fit(captured(run, graphs, said) if is_captured else guarded(run))
        found += [run, losses]
    return tuple(found)


# ------------------------------------------------------------------ equal losses


@pytest.mark.quick(2)
@pytest.mark.parametrize("optimizer", [adam, adamw, sgd, momentum], ids=["adam", "adamw", "sgd", "momentum"])
@pytest.mark.parametrize("scheduler", [None, cosine], ids=["constant", "cosine"])
def test_the_losses_are_those_of_the_plain_step(
    optimizer: Callable[[Any], Any], scheduler: Callable[..., Any] | None, graphs: list[Tape], said: Any
) -> None:
    def others() -> list[Hook]:
        return [Guard(deferred=True), ClipNorm(0.5)]

    plain, expected, run, losses = both(optimizer, graphs, said, hooks=others, scheduler=scheduler)
    # The rate is rounded to float32; nothing else differs.
    assert torch.allclose(losses.values, expected.values, rtol=1e-5, atol=1e-6)
    ours, theirs = run.model.state_dict(), plain.model.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-5) for name in theirs)
    # 200 steps, 15 epochs of which end with a smaller batch.
    (tape,) = graphs
    assert (tape.replays, tape.eager) == (200 - 15 - WARM, 15 + WARM)
    assert said == []


@pytest.mark.parametrize("reused", [False, True])
def test_with_a_rate_that_float32_holds_they_are_equal_to_the_last_bit(
    reused: bool, graphs: Any, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_LAUNCHED", ("cpu",) if reused else ())
    plain, expected, run, losses = both(exact_adam, graphs, said, hooks=lambda: [Guard(deferred=True)])
    assert (run.step.reused is not None) is reused
    assert torch.equal(losses.values, expected.values)
    ours, theirs = run.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_batch_in_other_tensors_is_done_as_it_is(
    graphs: Any, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph reads the tensors that it was recorded with, and nothing of any other batch."""
    monkeypatch.setattr(resident, "_LAUNCHED", ("cpu",))
    runs, losses = [], []
    for is_captured in (False, True):
        run, _ = prepared(exact_adam, steps=10)
        runs.append(captured(run, graphs, said) if is_captured else run)
        fit(run)
        other = next(iter(run.train_loader.batches(Cursor(5))))
        args = run.model, run.criterion, run.optimizer, other.inputs, other.targets, run.precision
        losses.append(run.step(*args))
    assert graphs[0].replays
    assert torch.equal(*losses)
    ours, theirs = (run.model.state_dict() for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_window_of_batches_is_captured_whole(graphs: list[Tape], said: Any) -> None:
    def windows(run: Run) -> None:
        run.step = partial(accumulated_step, cut=lambda window: torch.split(window, 2))

    _, expected, _, losses = both(exact_adam, graphs, said, windows)
    assert graphs[0].replays > 150
    assert torch.equal(losses.values, expected.values)


@pytest.mark.slow
def test_in_bfloat16(graphs: list[Tape], said: Any) -> None:
    def half(run: Run) -> None:
        run.precision = torch.autocast("cpu", dtype=torch.bfloat16)

    _, expected, _, losses = both(sgd, graphs, said, half)
    assert graphs[0].replays > 150
    assert torch.allclose(losses.values, expected.values, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_averaged_weights_follow(graphs: list[Tape], said: Any) -> None:
    results = []
    for is_captured in (False, True):
        run, _ = prepared(adam)
        run.averaged = copy.deepcopy(run.model)
        run.hooks.append(Ema(run.model, run.averaged, 0.9))
        fit(captured(run, graphs, said) if is_captured else run)
        results.append(run.averaged.state_dict())
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-5) for name in results[0])


def test_gradients_are_shown_where_the_graph_writes_them(graphs: list[Tape], said: Any) -> None:
    class Norms(Hook):
        def __init__(self) -> None:
            self.values: list[float] = []

        def step(self, run: Run, loss: Tensor) -> None:
            self.values.append(sum(float(item.grad.norm()) for item in run.model.parameters()))

    one, other = Norms(), Norms()
    plain, _ = prepared(sgd, one, steps=40)
    fit(plain)
    run, _ = prepared(sgd, other, steps=40)
    fit(captured(run, graphs, said))
    assert graphs[0].replays > 25
    assert other.values == pytest.approx(one.values, rel=1e-4)


def test_the_learning_rate_stays_a_number_for_everyone_else(graphs: list[Tape], said: Any) -> None:
    recorder = Recorder()
    run, _ = prepared(adam, recorder, scheduler=cosine, steps=50)
    fit(captured(run, graphs, said))
    plain_recorder = Recorder()
    plain, _ = prepared(adam, plain_recorder, scheduler=cosine, steps=50)
    fit(plain)
    assert recorder.rates == plain_recorder.rates
    assert all(type(rate) is float for rate in recorder.rates)
    assert run.optimizer.state_dict()["param_groups"] == plain.optimizer.state_dict()["param_groups"]


def test_the_guard_finds_the_step_that_was_bad(graphs: list[Tape], said: Any) -> None:
    def broken() -> ResidentLoader:
        split = blobs(800)
        split.inputs[:, 0][ResidentLoader(split, Standardize(), 8, CPU, 0).split.inputs[:, 0] > 3.0] = float(
            "nan"
        )
        return ResidentLoader(split, Standardize(), 8, CPU, seed=0)

    errors, ends = [], []
    for guard in (Guard(), Guard(deferred=True)):
        run, _ = prepared(exact_adam, guard)
        run = captured(run, graphs, said) if guard.deferred else guarded(run)
        run.train_loader = broken()
        torch.manual_seed(5)
        with pytest.raises(NotFiniteError) as caught:
            fit(run)
        errors.append(caught.value.problems[0].message)
        ends.append((run.state.step, run.model.state_dict()))
    assert graphs[0].replays > 0
    assert errors[0] == errors[1]
    assert ends[0][0] == ends[1][0]
    assert all(torch.equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])


# ------------------------------------------------------------------ what cannot be captured


class Reads(nn.CrossEntropyLoss):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().forward(outputs, targets)
        return loss * 2 if loss.item() < 0 else loss


def test_a_step_that_reads_a_value_goes_on_without_losing_one(graphs: list[Tape], said: Any) -> None:
    def reading(run: Run) -> None:
        run.criterion = Reads()

    _, expected, _, losses = both(adam, graphs, said, reading)
    assert graphs[0].replays == 0
    assert len(losses.losses) == 200
    assert torch.allclose(losses.values, expected.values, rtol=1e-5, atol=1e-6)
    reason = "operation not permitted when stream is capturing"
    assert said == [(f"steps are not captured as a CUDA graph: {reason}", f"not captured: {reason}")]


def test_a_momentum_that_moves_is_noticed(graphs: list[Tape], said: Any) -> None:
    _, expected, _, losses = both(momentum, graphs, said, scheduler=one_cycle)
    assert graphs[0].replays == 1
    assert torch.allclose(losses.values, expected.values, rtol=1e-5, atol=1e-6)
    assert said[-1][1] == "not captured: the optimizer's momentum changes from step to step"


def test_batches_of_several_shapes_are_noticed(graphs: list[Tape]) -> None:
    failed: list[str] = []
    model = nn.Sequential(nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(8, 2))
    optimizer = sgd(model.parameters())
    graphs.append(Tape(CPU))
    step = CapturedStep(train_step, 4, graphs[0], failed.append)
    for length in (6, 6, 6, 6, 6, 9, 6):
        inputs = torch.randn(4, 2, length)
        before = copy.deepcopy(model)
        expected = train_step(
            before,
            nn.CrossEntropyLoss(),
            sgd(before.parameters()),
            inputs,
            torch.tensor([0, 1, 0, 1]),
            nullcontext(),
        )
        loss = step(
            model, nn.CrossEntropyLoss(), optimizer, inputs, torch.tensor([0, 1, 0, 1]), nullcontext()
        )
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert failed == ["batches of (4, 2, 6) and (4, 2, 9)"]
    assert graphs[0].replays == 2


def test_rates_are_written_only_when_they_change() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = make(
        torch.optim.Adam, [{"params": [parameter], "lr": 0.5}, {"params": [nn.Parameter(torch.ones(1))]}]
    )
    rates = _Rates()
    rates.follow(optimizer, CPU)
    with rates.on_device(capturable=True):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert all(group["capturable"] for group in optimizer.param_groups)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.001]
    assert not any(group["capturable"] for group in optimizer.param_groups)
    assert (first.item(), second.item()) == (0.5, pytest.approx(0.001))
    version = first._version
    optimizer.param_groups[1]["lr"] = 0.25
    rates.follow(optimizer, CPU)
    assert (first._version, second.item()) == (version, 0.25)


# ------------------------------------------------------------------ the choice


class Clock:
    """Time that passes by what is done."""

    def __init__(self, eager: float, captured: float) -> None:
        self.now, self.eager, self.captured = 0.0, eager, captured

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Sets what a step of each kind takes."""

    def set_times(eager: float, captured: float) -> None:
        passing = Clock(eager, captured)
        monkeypatch.setattr(cuda_graph.time, "perf_counter", passing)
        replay, step = Tape.replay, train_step

        def replayed(self: Tape) -> None:
            passing.now += passing.captured
            replay(self)

        def stepped(*arguments: Any) -> Tensor:
            passing.now += passing.eager
            return step(*arguments)

        monkeypatch.setattr(Tape, "replay", replayed)
        set_times.step = stepped  # type: ignore[attr-defined]

    return set_times


def chosen(
    run: Run,
    graphs: list[Tape],
    monkeypatch: pytest.MonkeyPatch,
    recorded: str | None = None,
    step: Any = train_step,
) -> tuple[dict[str, str], list[str]]:
    """What ``train.capture=auto`` makes of the run's step, tapes in the place of graphs."""

    def make_graph(device: torch.device) -> Tape:
        graphs.append(Tape(device))
        return graphs[-1]

    monkeypatch.setattr(cuda_graph, "CudaGraph", make_graph)
    monkeypatch.setattr(cuda_graph, "_is_asked", lambda config, device: True)
    monkeypatch.setattr(cuda_graph, "obstacle", lambda config, device, optimizer: None)
    plain, batch = Step(step, "plain"), next(iter(run.train_loader.batches()))
    run.model.train()
    found, choices, said = cuda_graph.capture(
        composed("train.capture=auto"), run, plain, plain, batch, recorded
    )
    run.step, run.step_name = found.take, found.name
    return choices, said


@pytest.mark.parametrize(
    ("eager", "captured", "how"),
    [
        (400e-6, 90e-6, "captured"),
        (400e-6, 399e-6, "not captured: it is no faster (399 µs a step captured, 400 µs without)"),
    ],
)
def test_auto_takes_the_faster_and_leaves_no_trace(
    eager: float, captured: float, how: str, graphs: list[Tape], clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(eager, captured)
    run, losses = prepared(adam)
    before = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
    states = torch.get_rng_state()
    choices, said = chosen(run, graphs, monkeypatch, step=clock.step)
    assert torch.equal(torch.get_rng_state(), states)
    after = run.model.state_dict(), run.optimizer.state_dict()
    assert all(torch.equal(after[0][name], before[0][name]) for name in before[0])
    assert after[1] == before[1]
    assert choices == {"capture": how}
    if how == "captured":
        assert said == ["each step is launched as one CUDA graph (90 µs a step captured, 400 µs without)"]
        assert run.step_name == "plain, CUDA graph"
    fit(run)
    assert len(losses.losses) == 200
    assert len(graphs) == (2 if how == "captured" else 1), "one of the trial, and one of the run"


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ("captured", "captured"),
        ("not captured: it is no faster", "not captured: chosen when the run began"),
    ],
)
def test_a_resumed_run_goes_on_as_it_was_chosen(
    recorded: str, expected: str, graphs: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = prepared(adam, steps=20)
    choices, _ = chosen(run, graphs, monkeypatch, recorded)
    assert choices == {"capture": expected}
    assert len(graphs) == (recorded == "captured"), "nothing is measured"


def test_auto_does_not_try_for_a_few_steps(graphs: list[Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = prepared(adam, steps=20)
    choices, said = chosen(run, graphs, monkeypatch)
    assert not graphs
    assert choices == {"capture": "not captured: 20 steps are too few for it to pay"}
    assert said == ["steps are not captured as a CUDA graph: 20 steps are too few for it to pay"]


def test_auto_says_what_cannot_be_tried(graphs: list[Tape], monkeypatch: pytest.MonkeyPatch) -> None:
    run, losses = prepared(adam)
    run.criterion = Reads()
    choices, _ = chosen(run, graphs, monkeypatch)
    assert choices == {"capture": "not captured: operation not permitted when stream is capturing"}
    fit(run)
    assert len(losses.losses) == 200


# ------------------------------------------------------------------ the setting


def composed(*words: str) -> Any:
    return Composer().compose([to_hydra(word) for word in words]).config


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), None),
        (("optim=sgd_momentum", "train.clip_norm=1", "scheduler=cosine", "train.precision=bf16"), None),
        (("guard.loss=false", "guard.skip=2"), None),
        (("loop=autograd", "optim=sgd", "model=linear"), "loop=autograd is not the standard loop"),
        (("compile=reduce-overhead",), "with compile=reduce-overhead the compiler launches the model"),
        (("profile=true",), "profile=true takes the step apart"),
        (("optim=rmsprop",), "optim=rmsprop is not fused (sgd, sgd_momentum, adam and adamw are)"),
        (("optim.fused=false",), "optim=adam is not fused"),
        (("guard=full",), "guard.gradients=true looks at the gradients of each step"),
        (("guard.skip=2",), "guard.skip=2 waits for each loss"),
    ],
)
def test_what_cannot_be_captured_is_known_before(words: tuple[str, ...], reason: str | None) -> None:
    config = composed(*words, "train.capture=true", "threads=1")
    optimizer = build(composed(*words, "train.capture=false", "threads=1", "device=cpu")).run.optimizer
    found = cuda_graph.obstacle(config, torch.device("cuda"), optimizer)
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_on_the_cpu_true_is_refused_and_auto_is_silent(trainctl: Any, tmp_path: Path) -> None:
    outcome = trainctl("train.capture=true", "device=cpu", "threads=1", "hydra.run.dir=no")
    assert outcome.code == 2
    assert "train.capture=true: graphs are CUDA's, and the device is cpu" in outcome.err
    assert "use train.capture=auto, or false" in outcome.err
    assert "Traceback" not in outcome.err
    common = ("device=cpu", "threads=1", "train.max_steps=3", "display.mode=plain")
    outcome = trainctl(*common, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert "captur" not in outcome.out
    assert "capture" not in json.loads((tmp_path / "run" / "run.json").read_text())["environment"]


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_how_matrices_are_multiplied_is_set_and_recorded(
    trainctl: Any, tmp_path: Path, precision: str
) -> None:
    words = ("device=cpu", "threads=1", "train.max_steps=1", "display.mode=none", "hydra.run.dir=run")
    assert trainctl(*words, f"train.matmul={precision}").code == 0
    assert torch.get_float32_matmul_precision() == precision
    assert json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["matmul"] == precision
    torch.set_float32_matmul_precision("highest" if precision != "highest" else "high")
    assert trainctl("eval", "run").code == 0
    assert torch.get_float32_matmul_precision() == precision


def test_few_steps_are_tried_where_one_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "CudaGraph", Tape)
    monkeypatch.setattr(cuda_graph, "_SECONDS", 0.0)
    run, _ = prepared(adam)
    taken: list[int] = []

    def plain(*arguments: Any) -> Tensor:
        taken.append(1)
        return train_step(*arguments)

    eager, recorded = cuda_graph._measured(run, plain, next(iter(run.train_loader.batches())))
    assert eager > 0 < recorded
    assert len(taken) == WARM + 1 + cuda_graph._ROUNDS  # warm, recorded, and one a round by itself


# ------------------------------------------------------------------ on a GPU


@pytest.mark.gpu
class TestOnAGpu:
    device = torch.device("cuda")

    def captured(self, run: Run, said: list[Any]) -> Run:
        return captured(run, [], said, CudaGraph(self.device))

    @pytest.mark.parametrize(
        "optimizer", [adam, adamw, sgd, momentum], ids=["adam", "adamw", "sgd", "momentum"]
    )
    @pytest.mark.parametrize("scheduler", [None, cosine], ids=["constant", "cosine"])
    @pytest.mark.parametrize("clip", [False, True])
    def test_the_losses_are_those_of_the_plain_step(
        self, optimizer: Any, scheduler: Any, clip: bool, said: list[Any]
    ) -> None:
        values = []
        for is_captured in (False, True):
            clipping = [ClipNorm(0.5)] if clip else []
            run, losses = prepared(optimizer, Guard(), *clipping, scheduler=scheduler, device=self.device)
            fit(self.captured(run, said) if is_captured else guarded(run))
            values.append(losses.values)
        assert said == []
        assert torch.allclose(values[0], values[1], rtol=1e-4, atol=1e-5)

    def test_a_graph_really_runs(self, monkeypatch: pytest.MonkeyPatch, said: list[Any]) -> None:
        replays = []
        replay = CudaGraph.replay
        monkeypatch.setattr(CudaGraph, "replay", lambda graph: (replays.append(1), replay(graph)))
        run, _ = prepared(adam, Guard(), device=self.device)
        fit(self.captured(run, said))
        assert len(replays) == 200 - 15 - WARM

    def test_a_recording_that_fails_leaves_random_numbers_usable(self, said: list[Any]) -> None:
        run, losses = prepared(adam, device=self.device)
        run.criterion = Reads()
        fit(self.captured(run, said))
        assert said[-1][1].startswith("not captured: ")
        plain, expected = prepared(adam, device=self.device)
        plain.criterion = Reads()
        fit(plain)
        assert torch.allclose(losses.values, expected.values, rtol=1e-4, atol=1e-5)
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        # Memory that another stream has used is free again, which it is not while a recording goes on.
        before = torch.cuda.memory_allocated()
        used = torch.empty(2**24, device=self.device)
        used.record_stream(torch.cuda.Stream())
        del used
        torch.cuda.synchronize()
        torch.empty(1, device=self.device)
        assert torch.cuda.memory_allocated() < before + 2**24

    def test_a_run_continued_in_the_middle_has_the_same_losses(self, trainctl: Any, tmp_path: Path) -> None:
        words = (
            "device=cuda",
            "train.capture=true",
            "model.dropout=0.3",
            "scheduler=cosine",
            "epochs=4",
            "checkpoint.every_steps=10",
            "checkpoint.keep_last=99",
        )
        assert trainctl(*words, "hydra.run.dir=whole").code == 0
        assert trainctl(*words, "hydra.run.dir=cut").code == 0
        record = json.loads((tmp_path / "cut" / "run.json").read_text())
        assert record["environment"]["capture"] == "captured"
        (tmp_path / "cut" / "run.json").write_text(json.dumps({**record, "status": "running"}))
        for folder in (tmp_path / "cut" / "checkpoints").iterdir():
            if folder.name > "step-00000030":
                shutil.rmtree(folder)
        assert trainctl("resume", "cut").code == 0

        def losses(name: str) -> list[float]:
            lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
            return [json.loads(line)["train/loss"] for line in lines if "train/loss" in line]

        assert losses("cut") == pytest.approx(losses("whole"), rel=1e-5)

    def test_auto_chooses_and_says_so(self, trainctl: Any, tmp_path: Path) -> None:
        outcome = trainctl("device=cuda", "epochs=20", "display.mode=plain", "hydra.run.dir=run")
        assert outcome.code == 0, outcome.err
        how = json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["capture"]
        assert how == "captured" or how.startswith("not captured: it is no faster")
        assert "CUDA graph" in outcome.out
