"""Jobs trained as one stacked model: each is what it would have been on its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.program import start, wait_for
from tests.helpers.shards import digit_shards
from tests.helpers.tape import Tape
from trainctl import load
from trainctl.checkpoint.format import CheckpointData, folder_name, verify_checkpoint
from trainctl.checkpoint.retention import read_chosen
from trainctl.checkpoint.snapshot import unpack
from trainctl.config.composer import Composed, Composer
from trainctl.config.overrides import to_hydra
from trainctl.config.stored_config import stored_files
from trainctl.errors import ConfigError, InterruptedRunError, NotFiniteError, StorageError, TerminatedRunError
from trainctl.runs.directory import claim, lock
from trainctl.runs.record import read_record
from trainctl.sweep.fused import _probe, _steps, plan, train_group
from trainctl.training.display import Display
from trainctl.training.request import Request, make_request
from trainctl.training.train import train

COMMON = (
    "threads=1",
    "display.mode=none",
    "pictures=false",
    "train.epochs=3",
    "checkpoint.overlap=false",
)
SEEDS = tuple(f"seed={seed}" for seed in (0, 1, 2, 0))
RATES = (0.01, 0.002, 0.02, 0.005)
# Losses of a step, relative to its size. Measured: below 1e-5 after 60 steps.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


_COMPOSED: dict[tuple[str, ...], Composed] = {}


def composed_of(composer: Composer, words: Sequence[str]) -> Composed:
    """What the command line makes of COMMON and ``words``; a small model where they name none."""
    small = () if any(word.startswith("model") for word in words) else ("model.hidden=[16,12]",)
    asked = tuple(to_hydra(word) for word in (*COMMON, *small, *words))
    # Composing takes longer than training them, and most are trained twice.
    if asked not in _COMPOSED:
        _COMPOSED[asked] = composer.compose(asked)
    return _COMPOSED[asked]


Ask = Callable[..., list[Request]]


@pytest.fixture
def ask(composer: Composer, tmp_path: Path) -> Ask:
    """Requests for jobs, each given by what it has beside COMMON, in directories below ``under``."""

    def make(jobs: Sequence[Sequence[str]], under: str) -> list[Request]:
        requests = []
        for number, words in enumerate(jobs):
            composed = composed_of(composer, words)
            directory = claim(tmp_path / under / str(number), named=True)
            files = stored_files(composed)
            requests.append(
                Request(composed.config, files, directory, composed.notices, "trainctl -m", latest=False)
            )
        return requests

    return make


def jobs_of(*words: str) -> list[tuple[str, ...]]:
    return [(*words, seed, f"optim.lr={lr}") for seed, lr in zip(SEEDS, RATES, strict=True)]


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def steps(directory: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in lines(directory) if "train/loss" in line}


def furthest(one: Path, other: Path) -> float:
    """The largest difference of two runs' losses, relative to their size; infinite where steps differ."""
    first, second = steps(one), steps(other)
    if list(first) != list(second) or not first:
        return float("inf")
    return max(abs(first[n]["train/loss"] - second[n]["train/loss"]) / second[n]["train/loss"] for n in first)


def content(directory: Path, which: str = "last") -> CheckpointData:
    return read_chosen(directory, read_record(directory), which)[1]


def assert_same(one: Path, other: Path) -> None:
    """Everything that two runs recorded is the same, numbers to the tolerance."""
    assert furthest(one, other) < TOLERANCE
    assert [line["lr"] for line in steps(one).values()] == [line["lr"] for line in steps(other).values()]
    for first, second in zip(lines(one), lines(other), strict=True):
        assert list(first) == list(second)
        for key in first.keys() - {"samples_per_second"}:
            # One sample of 225 may fall on the other side.
            assert first[key] == pytest.approx(second[key], rel=2e-3, abs=5e-3), key
    first, second = content(one), content(other)
    assert first.state["data_fingerprint"] == second.state["data_fingerprint"]
    for key in ("step", "epoch", "position", "evaluated", "lr", "skipped", "stop"):
        assert first.state[key] == second.state[key], key
    for key in first.state["parts"].keys() & {"random", "optimizer", "scheduler"}:
        assert_equal(unpacked(first, key), unpacked(second, key), close=key != "random")
    assert_equal(dict(first.model), dict(second.model), close=True)
    assert list(first.state["parts"]) == list(second.state["parts"])


def unpacked(content: CheckpointData, key: str) -> Any:
    return unpack(content.state["parts"][key], content.training)


def assert_equal(one: Any, other: Any, *, close: bool = False) -> None:
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if close:
            assert (one - other).norm() <= 1e-2 * other.norm() + 1e-9
        else:
            assert torch.equal(one, other)
    elif isinstance(one, Mapping):
        assert sorted(one) == sorted(other)
        for key in one:
            assert_equal(one[key], other[key], close=close)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second, close=close)
    elif isinstance(one, float) and close:
        assert one == pytest.approx(other, rel=1e-6)
    else:
        assert one == other


# ------------------------------------------------------------------ the same as one by one


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("optim=sgd",), marks=pytest.mark.slow),
        ("optim=sgd_momentum", "scheduler=step", "scheduler.epochs=1"),
        pytest.param(
            ("optim=sgd_momentum", "optim.nesterov=true", "optim.weight_decay=0.001", "scheduler=one_cycle"),
            marks=pytest.mark.slow,
        ),
        ("optim=adam", "scheduler=cosine", "scheduler.warmup=10"),
        ("optim=adamw", "optim.no_decay=[biases]", "loss.class_weights=balanced"),
    ],
    ids=" ".join,
)
def test_each_is_what_it_is_on_its_own(ask: Ask, composer: Composer, words: tuple[str, ...]) -> None:
    jobs = jobs_of(*words)
    decay = [f"optim.weight_decay={value}" for value in (0.0, 0.01, 0.1, 0.01)]
    if not any("weight_decay" in word for word in words):
        jobs = [(*job, each) for job, each in zip(jobs, decay, strict=True)]
    configs = [composed_of(composer, job).config for job in jobs]
    assert plan(configs) == ([[0, 1, 2, 3]], {})
    for pair in both_ways(ask, jobs):
        assert_same(*pair)
        record, other = map(read_record, pair)
        assert (record["status"], record["engine"], record["fused"]) == ("done", "fused", {"models": 4})
        assert record.keys() - {"fused"} == other.keys()
        ours, theirs = (sorted(path.name for path in each.iterdir()) for each in pair)
        assert ours == theirs


def both_ways(ask: Ask, jobs: Sequence[Sequence[str]]) -> list[tuple[Path, Path]]:
    """The jobs trained as one, and each on its own: their directories."""
    together, singles = ask(jobs, "fused"), ask(jobs, "single")
    for result in train_group(together):
        assert isinstance(result, dict), result
    for single in singles:
        train(single, Display())
    return [(one.directory, other.directory) for one, other in zip(together, singles, strict=True)]


@pytest.fixture
def four(ask: Ask) -> list[Request]:
    """Four runs of SGD with momentum that were trained as one."""
    requests = ask(jobs_of("optim=sgd_momentum"), "fused")
    assert all(isinstance(result, dict) for result in train_group(requests))
    return requests


@pytest.mark.slow
def test_the_comparison_would_show_a_wrong_rate_and_a_swapped_model(ask: Ask, four: list[Request]) -> None:
    jobs = jobs_of("optim=sgd_momentum")
    (other,) = ask([(*jobs[0][:-1], f"optim.lr={RATES[0] * 1.01}")], "other")
    train(other, Display())
    assert furthest(other.directory, four[0].directory) > 10 * TOLERANCE
    directories = [request.directory for request in four]
    assert min(furthest(directories[0], each) for each in directories[1:]) > 10 * TOLERANCE


@pytest.mark.slow
def test_momentum_may_differ_and_be_none(ask: Ask) -> None:
    jobs = [
        ("optim=sgd_momentum", f"optim.momentum={value}", seed)
        for value, seed in zip((0.9, 0.0, 0.5, 0.0), SEEDS, strict=True)
    ]
    for one, other in both_ways(ask, jobs):
        assert_same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        # Convolutions and a normalization: no chain of linear layers.
        ("model=cnn", "model.normalization=group", "model.widths=[4,6]", "dataset.shape=[2,12,12]"),
        ("model=lenet", "dataset.shape=[1,14,14]"),
        ("dataset.task=regression", "dataset.outputs=3", "loss=mse", "model.normalization=layer"),
        ("model=linear", "dataset.task=regression", "dataset.outputs=1", "loss=huber", "dataset.val=0"),
    ],
    ids=" ".join,
)
def test_other_models_and_losses(ask: Ask, words: tuple[str, ...]) -> None:
    sizes = ("dataset=synthetic", "dataset.samples=300", "dataset.test_samples=70", "train.epochs=2")
    jobs = [(*sizes, *words, f"seed={seed}", f"optim.lr={lr}") for seed, lr in ((1, 0.01), (2, 0.003))]
    for one, other in both_ways(ask, jobs):
        assert read_record(one)["engine"] == "fused"
        assert_same(one, other)


@pytest.mark.parametrize(
    ("scheduler", "is_launched"),
    [("none", True), pytest.param("cosine", True, marks=pytest.mark.slow), ("one_cycle", False)],
)
def test_launched_as_a_graph_each_is_what_it_is_on_its_own(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, scheduler: str, is_launched: bool
) -> None:
    """A tape stands in the graph's place. one_cycle changes a constant of the recording, the momentum."""
    tapes: list[Tape] = []

    def tape(*_: object) -> Tape:
        tapes.append(Tape(torch.device("cpu")))
        return tapes[-1]

    monkeypatch.setattr(_steps, "_graph_for", tape)
    for one, other in both_ways(ask, jobs_of("optim=adam", f"scheduler={scheduler}")):
        assert furthest(one, other) < 1e-4
        said = "not captured as a CUDA graph: settings of the optimizer change"
        assert (said in (one / "train.log").read_text()) is not is_launched
    assert any(tape.replays for tape in tapes) is is_launched


@pytest.mark.gpu
def test_on_a_gpu_each_is_what_it_is_on_its_own(ask: Ask) -> None:
    jobs = jobs_of("device=cuda", "optim=adam", "scheduler=cosine")
    for pair in both_ways(ask, jobs):
        assert furthest(*pair) < 1e-2


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.slow
def test_a_stack_goes_on_with_the_data_it_was_trained_on(ask: Ask, tmp_path: Path) -> None:
    rows = [f"{number % 7},{number % 5},{'ab'[number % 7 > 3]}" for number in range(300)]
    table = tmp_path / "data.csv"
    table.write_text("\n".join(["x,y,label", *rows]))
    words = ("dataset=csv", f"dataset.path={table}", "dataset.target=label", "train.epochs=2")
    requests = ask(jobs_of(*words), "fused")
    assert all(isinstance(result, dict) for result in train_group(requests))
    table.write_text("\n".join(["y,x,label", *rows]))
    again = [make_request(each.directory, ["train.epochs=4"], command="resume") for each in requests]
    for result in train_group([each for each in again if each is not None]):
        assert isinstance(result, ConfigError)
        assert "other columns (y, x instead of x, y)" in str(result)


@pytest.mark.quick(1)
@pytest.mark.parametrize("scheduler", [pytest.param("none", marks=pytest.mark.slow), "cosine"])
def test_a_loss_that_is_not_finite_ends_its_own_run_only(ask: Ask, trainctl, scheduler: str) -> None:
    jobs = jobs_of("optim=sgd", "train.epochs=4", f"scheduler={scheduler}")
    jobs[1] = (*jobs[1][:-1], "optim.lr=1e8")
    jobs[3] = (*jobs[3][:-1], "optim.lr=1e9")
    together, singles = ask(jobs, "fused"), ask(jobs, "single")
    results = train_group(together)
    for number in (0, 2):
        train(singles[number], Display())
        assert_same(together[number].directory, singles[number].directory)
    for number in (1, 3):
        error = results[number]
        assert isinstance(error, NotFiniteError)
        with pytest.raises(NotFiniteError) as alone:
            train(singles[number], Display())
        assert str(error) == str(alone.value)
        record = read_record(together[number].directory)
        assert (record["status"], record["exit_code"], record["reason"]) == ("failed", 6, str(error))
        assert "trainctl replay" in error.problems[0].remedy
        # The steps before the bad one are there, and no other.
        assert list(steps(together[number].directory)) == list(steps(singles[number].directory))
        (capsule,) = (together[number].directory / "capsules").iterdir()
        assert capsule.name == next((singles[number].directory / "capsules").iterdir()).name
        assert trainctl("replay", str(capsule)).code == 0


def test_without_a_guard_a_model_that_is_not_finite_is_never_saved(ask: Ask) -> None:
    jobs = [("optim=sgd", "guard=none", "optim.lr=1e20"), ("optim=sgd", "guard=none", "optim.lr=0.1")]
    together = ask(jobs, "fused")
    results = train_group(together)
    assert isinstance(results[0], NotFiniteError)
    assert not list((together[0].directory / "checkpoints").glob("step-*"))
    assert steps(together[0].directory)[20]["train/loss"] == "nan"
    assert isinstance(results[1], dict)


@pytest.mark.slow
def test_a_disk_that_fails_one_run_leaves_the_others(ask: Ask) -> None:
    together = ask(jobs_of("optim=sgd"), "fused")
    (together[2].directory / "checkpoints").write_text("in the way")
    results = train_group(together)
    assert isinstance(results[2], StorageError)
    assert json.loads((together[2].directory / "run.json").read_text())["exit_code"] == 5
    assert [isinstance(result, dict) for result in results] == [True, True, False, True]


class _Stopping(Display):
    """Sends this process a signal at the end of an epoch."""

    def __init__(self, number: int, at: int) -> None:
        self.number, self.at, self.epochs = number, at, 0

    def epoch(self, *arguments: Any, **settings: Any) -> None:
        self.epochs += 1
        if self.epochs == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "kind", "status"),
    [
        (signal.SIGTERM, TerminatedRunError, "terminated"),
        pytest.param(signal.SIGINT, InterruptedRunError, "interrupted", marks=pytest.mark.slow),
    ],
)
def test_told_to_stop_all_are_saved_and_go_on(
    ask: Ask, trainctl, number: int, kind: type[Exception], status: str
) -> None:
    jobs = jobs_of("optim=adam", "scheduler=cosine")
    together, singles = ask(jobs, "fused"), ask(jobs, "single")
    stopping = _Stopping(number, at=1)
    results = train_group(together, lambda index: stopping if index == 2 else Display())
    for request, result in zip(together, results, strict=True):
        assert isinstance(result, kind)
        assert "saved in" in result.problems[-1].message
        record = read_record(request.directory)
        assert (record["status"], record["last"]["step"]) == (status, 20)
        assert content(request.directory).step == 20
    for single in singles:
        train(single, Display())

    # One on its own, by the standard engine …
    outcome = trainctl("resume", str(together[0].directory))
    assert outcome.code == 0, outcome.err
    assert_same(together[0].directory, singles[0].directory)
    # … and the others as a group again.
    with contextlib.ExitStack() as held:
        again = []
        for request in together[1:]:
            held.enter_context(lock(request.directory))
            again.append(make_request(request.directory, [], command="resume"))
        assert all(request is not None for request in again)
        results = train_group([request for request in again if request is not None])
    for request, single, result in zip(together[1:], singles[1:], results, strict=True):
        assert isinstance(result, dict), result
        assert result["fused"] == {"models": 3}
        assert_same(request.directory, single.directory)


def test_a_signal_in_the_middle_of_an_epoch_loses_nothing(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainctl.sweep.fused import _steps

    taken, plain = [], _steps.stacked_step

    def counted(*arguments: Any) -> Any:
        taken.append(1)
        if len(taken) == 27:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    monkeypatch.setattr(_steps, "stacked_step", counted)
    together = ask(jobs_of("optim=sgd_momentum"), "fused")
    assert all(isinstance(result, TerminatedRunError) for result in train_group(together))
    for request in together:
        assert list(steps(request.directory)) == list(range(1, 28))
        assert content(request.directory).state["position"] == 7 * 64


# ------------------------------------------------------------------ its own end


@pytest.mark.slow
def test_one_may_stop_early(ask: Ask) -> None:
    jobs = [
        ("optim=sgd", "train.patience=2", "train.epochs=8", f"optim.lr={lr}", f"seed={seed}")
        for lr, seed in ((1e-9, 0), (0.1, 1), (0.2, 2))
    ]
    pairs = both_ways(ask, jobs)
    assert "no better val/accuracy" in read_record(pairs[0][0])["reason"]
    for pair in pairs:
        assert_same(*pair)
        ours, theirs = map(read_record, pair)
        assert (ours["reason"], ours["test"]["step"]) == (theirs["reason"], theirs["test"]["step"])


def test_only_what_stays_is_written(four: list[Request]) -> None:
    for request in four:
        record = read_record(request.directory)
        kept = {path.name for path in (request.directory / "checkpoints").iterdir()}
        assert kept == {folder_name(record[which]["step"]) for which in ("best", "last")}
        for name in kept:
            verify_checkpoint(request.directory / "checkpoints" / name)


@pytest.mark.slow
def test_all_that_is_asked_for_is_written(ask: Ask) -> None:
    words = ("checkpoint.every_steps=7", "checkpoint.keep_last=99", "optim=sgd")
    for pair in both_ways(ask, jobs_of(*words)):
        ours, theirs = ({path.name for path in (each / "checkpoints").iterdir()} for each in pair)
        assert ours == theirs
        assert len(ours) == 11


def test_every_verb_takes_the_run(four: list[Request], trainctl) -> None:
    directory = four[1].directory
    record = read_record(directory)
    model = load(directory)
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == record["parameters"]
    outcome = trainctl("eval", str(directory))
    assert outcome.code == 0, outcome.err
    assert f"test/accuracy {record['test']['test/accuracy']:.4g}" in " ".join(outcome.out.split())
    outcome = trainctl("resume", str(directory), "train.epochs=5")
    assert outcome.code == 0, outcome.err
    assert list(steps(directory)) == list(range(1, 101))
    outcome = trainctl("verify", str(four[2].directory))
    assert outcome.code == 0, outcome.out
    assert "the same: 60 of 60 steps re-run, to 2% (engine fused" in outcome.out


def test_verify_shows_what_is_not_the_same(four: list[Request], trainctl) -> None:
    path = four[0].directory / "metrics.jsonl"
    text = path.read_text().splitlines()
    other = (four[1].directory / "metrics.jsonl").read_text().splitlines()
    text[5] = other[5]
    path.write_text("\n".join(text) + "\n")
    outcome = trainctl("verify", str(four[0].directory))
    assert outcome.code == 1
    assert "step 6" in outcome.out


# ------------------------------------------------------------------ who trains together


@pytest.mark.quick(5)
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("loop=parameters", "optim=sgd"), "loop=parameters"),
        (("optim=rmsprop",), "optim=rmsprop"),
        (("scheduler=reduce_on_plateau",), "reduce_on_plateau"),
        (("loader=workers",), "loader=workers"),
        (("train.accumulate=2",), "train.accumulate=2"),
        (("train.micro_batch=8",), "train.micro_batch=8"),
        (("train.precision=bf16",), "train.precision=bf16"),
        (("train.clip_norm=1.0",), "train.clip_norm=1.0"),
        (("guard=full",), "gradients"),
        (("guard.skip=1",), "guard.skip"),
        (("model.dropout=0.1",), "model.dropout=0.1"),
        (("model.normalization=batch",), "running statistics"),
        (("dataset.augment=[RandomHorizontalFlip]",), "dataset.augment"),
        (("tracker=csv",), "tracker=csv"),
        (("train.ema=0.9",), "train.ema"),
        (("profile=true",), "profile"),
        (("train.capture=true",), "train.capture=true"),
    ],
)
def test_what_does_not_stack_trains_alone(composer: Composer, words: tuple[str, ...], reason: str) -> None:
    config = composed_of(composer, words).config
    groups, alone = plan([config, replace(config, seed=1)])
    assert groups == []
    assert list(alone) == [0, 1]
    assert reason in alone[0]


@pytest.mark.slow
def test_groups_have_all_but_numbers_in_common(composer: Composer) -> None:
    words = [
        ("optim.lr=0.1",),
        ("optim.lr=0.2", "seed=7", "name=one"),
        ("optim=adamw",),
        ("train.batch_size=32",),
        ("optim.weight_decay=0.1",),
        ("optim=adamw", "optim.weight_decay=0.3"),
        ("train.batch_size=32", "display.every=1"),
        ("optim.betas=[0.8,0.9]",),
    ]
    groups, alone = plan([composed_of(composer, each).config for each in words])
    assert groups == [[0, 1, 4], [2, 5], [3, 6]]
    assert list(alone) == [7]
    assert "no other job" in alone[7]


PLUGIN = """
import torch
from torch import nn
from torch.nn import functional
from trainctl.registry import MODELS

@MODELS.register("odd")
class Odd(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], output_size: int, kind: str = "plain"):
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(64, output_size)
        self.norm = nn.BatchNorm1d(64) if kind == "norm" else nn.Identity()

    def forward(self, inputs):
        inputs = self.norm(inputs.flatten(1))
        if self.kind == "random":
            inputs = functional.dropout(inputs, 0.1, self.training)
        if self.kind == "branch" and inputs.sum() > 0:
            return 2 * self.linear(inputs)
        return self.linear(inputs)
"""


@pytest.mark.parametrize("window", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_order_of_windows_is_never_that_of_a_stack(ask: Ask, tmp_path: Path, window: int) -> None:
    digit_shards(tmp_path / "shards", shards=4, each=25)
    words = ("dataset=shards", f"dataset.path={tmp_path}/shards", "dataset.size=[8,8]", "loader=resident")
    words = (*words, f"dataset.window={window}", "dataset.val=0.2", "train.epochs=1")
    together = ask([(*words, f"seed={seed}") for seed in range(2)], "fused")
    for request, result in zip(together, train_group(together), strict=True):
        assert isinstance(result, dict), result
        assert result["engine"] == ("standard" if window else "fused")
        log = (request.directory / "train.log").read_text()
        assert ("its order mixes windows of shards" in log) == bool(window)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("plain", None),
        ("norm", "keeps running statistics"),
        ("random", "draws random numbers"),
        ("branch", "does not stack"),
    ],
)
def test_a_model_of_ones_own_is_tried_first(ask: Ask, tmp_path: Path, kind: str, reason: str | None) -> None:
    (tmp_path / "odd.py").write_text(PLUGIN)
    words = (
        "plugins=[./odd.py]",
        "~model.hidden",
        "model.name=odd",
        f"model.kind={kind}",
        "train.epochs=1",
    )
    together = ask([(*words, f"seed={seed}") for seed in range(2)], "fused")
    for request, result in zip(together, train_group(together), strict=True):
        assert isinstance(result, dict), result
        assert result["engine"] == ("fused" if reason is None else "standard")
        log = (request.directory / "train.log").read_text()
        assert (reason or "one of 2 models that train as one") in log


def test_what_torch_would_compute_one_by_one_is_trained_one_by_one(ask: Ask) -> None:
    together = ask([("loss=multi_margin", f"seed={seed}", "train.epochs=1") for seed in range(2)], "fused")
    for request, result in zip(together, train_group(together), strict=True):
        assert isinstance(result, dict), result
        assert result["engine"] == "standard"
        assert "torch has no stacked form" in (request.directory / "train.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [1, 2])
def test_what_does_not_fit_into_memory_trains_in_turns(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, sharing: int
) -> None:
    # Room for three: weights, gradients, moments and those to go back to, tensors for backward, batches.
    state = 7 * 4 * (64 * 16 + 16 + 16 * 12 + 12 + 12 * 10 + 10)
    monkeypatch.setattr(_probe, "free_memory", lambda device: sharing * 2 * 3 * (state + 130_000))
    together = ask([(f"seed={seed}", "train.epochs=1") for seed in range(5)], "fused")
    results = train_group(together, sharing=sharing)
    models = [result["fused"]["models"] for result in results if isinstance(result, dict)]
    assert models == [3, 3, 3, 2, 2]
    said = (together[4].directory / "train.log").read_text()
    assert "5 models 3 train at a time: there is memory for" in said


def test_every_one_says_itself_what_is_wrong_with_the_config(ask: Ask) -> None:
    together = ask([("train.metrics=[r2]", f"seed={seed}") for seed in range(2)], "fused")
    results = train_group(together)
    assert [getattr(result, "exit_code", None) for result in results] == [2, 2]
    assert all(read_record(request.directory)["status"] == "failed" for request in together)


@pytest.mark.slow
def test_as_a_sweep_from_the_command_line(trainctl, tmp_path: Path) -> None:
    words = ("-m", *COMMON[:3], "model.hidden=[16,12]", "epochs=1", "hydra/launcher=fused", "sweep.jobs=1")
    outcome = trainctl(*words, "seed=0,1", "model.dropout=0,0.2", "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.out + outcome.err
    engines = [read_record(tmp_path / "sweep" / str(number))["engine"] for number in range(4)]
    assert sorted(engines) == ["fused", "fused", "standard", "standard"]
    assert "model.dropout=0.2 draws random numbers" in outcome.out


@pytest.mark.slow
def test_a_fused_sweep_that_was_stopped_goes_on_fused(trainctl, tmp_path: Path) -> None:
    words = ("seed=1,2,3", "epochs=400", "threads=1", "hydra/launcher=fused", "sweep.jobs=1")
    process = start("-m", *words, "hydra.sweep.dir=sweep", cwd=tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("sweep/*/checkpoints/step-*"))) >= 3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    outcome = trainctl("resume", "sweep")
    assert outcome.code == 0, outcome.out + outcome.err
    for number in range(3):
        log = (tmp_path / "sweep" / str(number) / "train.log").read_text()
        assert log.count("one of 3 models that train as one (fused)") == 2
        assert list(steps(tmp_path / "sweep" / str(number))) == list(range(1, 8001))
