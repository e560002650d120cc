"""Verifying: re-run steps are identical, and the first difference is named by its cause."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from tests.helpers.runs import (
    FED,
    PLUGIN,
    TABLE,
    WORDS,
    at,
    damage,
    everything,
    killed_after,
    metrics,
    record,
    saved,
    write_table,
)
from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, read_checkpoint, save_checkpoint
from trainctl.cli.main import main
from trainctl.runs import metrics_file
from trainctl.runs.directory import lock
from trainctl.training.hooks.signals import Signals

EVERY = ("checkpoint.every_steps=3", "checkpoint.keep_last=9", "display.mode=none")
AT = (3, 4, 6, 8, 9, 12)
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    words = (*WORDS, *EVERY, "scheduler=cosine", "optim=sgd_momentum", "lr=0.1")
    assert main([*words, f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run with checkpoints at the steps AT."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def touched(directory: Path) -> dict[str, Any]:
    """Everything that writing to a folder would change."""
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*")} | everything(directory)


def plant(directory: Path, step: int, change: Callable[[Any, Any, Any], Any]) -> None:
    """Store a checkpoint again, whole, with a change made to its model, its tensors or its state."""
    content = read_checkpoint(at(directory, step))
    model, training, state = dict(content.model), dict(content.training), dict(content.state)
    change(model, training, state)
    shutil.rmtree(at(directory, step))
    save_checkpoint(directory / "checkpoints", CheckpointData(model, training, state))


def set_item(packed: Any, name: str, value: Any) -> None:
    items = packed["items"]
    items[[key for key, _ in items].index(name)][1] = value


# ------------------------------------------------------------------ identical


def test_each_segment_has_a_line_and_nothing_is_written(trainctl, run: Path) -> None:
    assert tuple(saved(run)) == AT
    before = touched(run)
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out + outcome.err
    assert outcome.out.splitlines() == [
        "run run: 12 steps, 6 checkpoints",
        "step 0 → 3: identical (3 steps)",
        "step 3 → 4: identical (1 step, 1 evaluation)",
        "step 4 → 6: identical (2 steps)",
        "step 6 → 8: identical (2 steps, 1 evaluation)",
        "step 8 → 9: identical (1 step)",
        "step 9 → 12: identical (3 steps, 1 evaluation)",
        "step 12 → 12: identical (0 steps, 1 evaluation)",
        "identical: 12 of 12 steps re-run, to the last bit",
    ]
    assert touched(run) == before
    outcome = trainctl("verify", "--steps=2", "run")
    assert "step 0 → 2: identical (2 steps)" in outcome.out
    assert "identical: 10 of 12 steps" in outcome.out


@pytest.mark.parametrize(
    "words",
    [
        ("optim=adamw", "train.precision=bf16"),
        ("train.accumulate=2", "batch_size=160", "train.clip_norm=1.0", "guard=full"),
        ("scheduler=reduce_on_plateau", "scheduler.patience=0", "lr=0.3", "optim=sgd"),
        ("dataset.augment=[RandomHorizontalFlip,{RandomCrop:{size:8,padding:1}}]", "dataset.val=0"),
        (*FED, "loader.workers=0"),
        (*FED, "loader.workers=2"),
        pytest.param(("train.patience=1", "lr=0.5", "epochs=30", "optim=sgd"), marks=SLOW),
        pytest.param(("train.max_steps=10", "model.normalization=batch", "optim=muon"), marks=SLOW),
        pytest.param(("loop=parameters", "optim=sgd"), marks=SLOW),
        ("loop=lightning",),
        ("model=scratch_mlp", "optim=scratch_adam", "loss=scratch_cross_entropy", "loader=scratch"),
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_an_untouched_run_is_identical(trainctl, tmp_path: Path, words: tuple[str, ...]) -> None:
    if "loop=lightning" in words:
        # Its import draws random numbers, once a process.
        pytest.importorskip("lightning")
    (tmp_path / "items.py").write_text(PLUGIN)
    own = () if "model=scratch_mlp" in words else WORDS[3:]
    assert trainctl(*WORDS[:3], *own, *EVERY, *words, "hydra.run.dir=run").code == 0
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out + outcome.err
    steps = record(tmp_path / "run")["last"]["step"]
    assert f"identical: {steps} of {steps} steps re-run" in outcome.out


def test_a_run_that_was_interrupted_and_resumed_is_identical(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Signals, run: Any, loss: Any) -> None:
        if run.state.step == 7:
            self.received = signal.SIGTERM
        self.poll(run)

    with monkeypatch.context() as patch:
        patch.setattr(Signals, "step", step)
        assert trainctl(*WORDS, *EVERY, "hydra.run.dir=run").code == 143
    assert trainctl("verify", "run").code == 0
    assert trainctl("resume", "run").code == 0
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out
    assert "step 7 → 8: identical (1 step, 1 evaluation)" in outcome.out


def test_steps_after_the_newest_checkpoint_are_compared_too(trainctl, run: Path) -> None:
    cut = killed_after(run, 6)
    lines = (cut / "metrics.jsonl").read_text().splitlines(keepends=True)
    end = next(number for number, line in enumerate(lines) if '"step": 10' in line)
    # Killed in the middle of a line.
    (cut / "metrics.jsonl").write_text("".join(lines[: end + 1]) + lines[end + 1][:20])
    outcome = trainctl("verify", "cut")
    assert outcome.code == 0, outcome.out
    assert "step 6 → 10: identical (4 steps, 1 evaluation)" in outcome.out


@pytest.mark.slow
def test_changed_settings_are_compared_as_they_were(trainctl, run: Path) -> None:
    cut = killed_after(run, 6)
    assert trainctl("resume", "cut", "lr=0.01", "epochs=4", "--allow-change").code == 0
    outcome = trainctl("verify", "cut")
    assert outcome.code == 0, outcome.out
    assert "settings changed at step 6: optim.lr: 0.1 → 0.01, train.epochs: 3 → 4" in outcome.out
    assert "identical: 16 of 16 steps" in outcome.out
    shutil.rmtree(at(cut, 6))
    outcome = trainctl("verify", "cut")
    assert outcome.code == 0, outcome.out
    assert "step 4 → 6: identical (2 steps)" in outcome.out
    assert "step 6 → 8: not verified: the checkpoint of step 6, where the settings changed" in outcome.out
    assert "identical: 14 of 16 steps" in outcome.out


@pytest.mark.slow
def test_a_run_whose_loss_was_not_finite_is_identical_up_to_there(trainctl) -> None:
    words = (*WORDS, *EVERY[1:], "checkpoint.every_steps=1", "optim=sgd", "lr=1e30", "hydra.run.dir=run")
    assert trainctl(*words).code == 6
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out
    assert "step 0 → 1: identical (1 step)" in outcome.out


# ------------------------------------------------------------------ what differs is named by its cause

OTHER_GENERATOR = torch.Generator().manual_seed(5).get_state()
PLANTED: list[tuple[str, str, Callable[[Any, Any, Any], Any]]] = [
    ("optimizer: state.0.momentum_buffer", "step 8: train/loss: ",
     lambda _, training, __: training["optimizer.state.0.momentum_buffer"].add_(1e-3)),
    ("random numbers: torch", "step 7: train/loss: ",
     lambda _, training, __: training.update({"random.torch": OTHER_GENERATOR})),
    ("random numbers: python.1", "", lambda _, training, __: training["random.python.1"][3:4].add_(1)),
    ("random numbers: numpy.1", "", lambda _, training, __: training["random.numpy.1"][3:4].add_(1)),
    ("scheduler: last_epoch: 7 recorded, 6 now", "",
     lambda _, __, state: set_item(state["parts"]["scheduler"], "last_epoch", 7)),
    ("weights: layers.", "", lambda model, _, __: next(iter(model.values())).view(-1)[:1].add_(1e-6)),
    ("data order: position: 0 recorded, 640 now", "", lambda _, __, state: state.update(position=0)),
    ("best and early stopping: num_bad_epochs: 7 recorded, ", "",
     lambda _, __, state: state.update(num_bad_epochs=7)),
]  # fmt: skip


@pytest.mark.quick(3)
@pytest.mark.parametrize(("first", "after", "change"), PLANTED, ids=[first for first, _, _ in PLANTED])
def test_a_planted_difference_is_named(
    trainctl, run: Path, first: str, after: str, change: Callable[[Any, Any, Any], Any]
) -> None:
    plant(run, 6, change)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert f"step 4 → 6: differs: step 6: {first}" in outcome.out
    assert f"differs, first in: step 6: {first}" in outcome.out
    assert f"step 6 → 8: differs: {after}" in outcome.out or not after


@pytest.mark.slow
def test_another_state_of_a_plateau_is_the_schedulers(trainctl, tmp_path: Path) -> None:
    words = ("scheduler=reduce_on_plateau", "hydra.run.dir=run")
    assert trainctl(*WORDS, "checkpoint.keep_last=9", "display.mode=none", *words).code == 0
    plant(tmp_path / "run", 8, lambda _, __, state: set_item(state["parts"]["plateau"], "num_bad_epochs", 4))
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "differs, first in: step 8: scheduler: num_bad_epochs: 4 recorded, " in outcome.out


@pytest.mark.slow
def test_changed_data_is_named(trainctl, tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    assert trainctl(*TABLE, *EVERY, "hydra.run.dir=run").code == 0
    assert trainctl("verify", "run").code == 0
    write_table(tmp_path / "table.csv", shift=1)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "differs, first in: data: other targets in train" in outcome.out


@pytest.mark.quick(1)
@pytest.mark.parametrize(("key", "step"), [("train/loss", 5), ("lr", 8), ("val/accuracy", 8)])
def test_another_value_in_the_metrics_is_named(trainctl, run: Path, key: str, step: int) -> None:
    rows = metrics(run)
    row = next(row for row in rows if row["step"] == step and key in row)
    then, row[key] = row[key], 0.5
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert f"differs, first in: step {step}: {key}: 0.5 recorded, {then} now" in outcome.out
    assert outcome.out.count("differs: ") == 1


@pytest.mark.slow
def test_lines_that_are_missing_or_too_many_are_named(trainctl, run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"step": 5,' not in line))
    assert "step 5: loss not recorded" in trainctl("verify", "run").out
    path.write_text("".join(line for line in lines if not ('"step": 8,' in line and "val/" in line)))
    assert "step 8: evaluation not recorded" in trainctl("verify", "run").out
    more = json.dumps({"step": 7, "epoch": 2, "val/loss": 1.0, "val/accuracy": 0.1}) + "\n"
    path.write_text("".join([*lines, more]))
    assert "step 7: evaluation recorded, not made now" in trainctl("verify", "run").out
    path.write_text("".join(["{]\n", *lines]))
    outcome = trainctl("verify", "run")
    assert outcome.code == 2
    assert "metrics.jsonl line 1 is damaged" in outcome.err


@pytest.mark.parametrize(
    ("owner", "what", "named"),
    [
        (snapshot.RandomStates, "load_state_dict", "random numbers: "),
        (LambdaLR, "load_state_dict", "scheduler: "),
    ],
)
def test_a_fault_of_resuming_itself_is_named(
    trainctl, run: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, what: str, named: str
) -> None:
    monkeypatch.setattr(owner, what, lambda *_: None)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "step 0 → 3: identical" in outcome.out
    assert f"differs, first in: step 3: not restored as stored: {named}" in outcome.out


# ------------------------------------------------------------------ what cannot be verified


def test_a_run_that_is_being_trained_is_refused(trainctl, run: Path) -> None:
    with lock(run):
        before = touched(run)
        outcome = trainctl("verify", "run")
        assert touched(run) == before
    assert outcome.code == 7
    assert "another process is training in it" in outcome.err


@pytest.mark.parametrize("meanwhile", ["trains", "has trained"])
def test_a_run_that_goes_on_while_it_is_verified_is_no_difference(
    trainctl, run: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    with contextlib.ExitStack() as held:

        def read(path: Path) -> metrics_file.Recorded:
            if meanwhile == "trains":
                held.enter_context(lock(run))
            else:
                (run / "run.json").write_text(json.dumps({**record(run), "status": "running"}))
            return metrics_file.Recorded({1: {}}, {})

        monkeypatch.setattr(metrics_file, "recorded", read)
        outcome = trainctl("verify", "run")
    assert (outcome.code, "has begun to train in it" in outcome.err) == (7, True), outcome.out + outcome.err


def test_a_damaged_checkpoint_is_named_and_the_others_are_used(trainctl, run: Path) -> None:
    damage(run, 6)
    outcome = trainctl("verify", "run")
    assert outcome.code == 0
    assert "damaged, not used: " in outcome.out
    assert "step-00000006/training.safetensors is damaged" in outcome.out
    assert "step 4 → 8: identical (4 steps, 1 evaluation)" in outcome.out
    for step in AT:
        if step != 6:
            damage(run, step)
    outcome = trainctl("verify", "run")
    assert outcome.code == 4
    assert outcome.err.count("is damaged") == len(AT)
    shutil.rmtree(run / "checkpoints")
    (run / "config.yaml").unlink()
    outcome = trainctl("verify", "run")
    assert outcome.code == 4
    assert "has no checkpoint" in outcome.err


@pytest.mark.slow
def test_without_the_run_it_began_with_the_beginning_is_left_out(trainctl, run: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    assert trainctl(*WORDS, *EVERY, "hydra.run.dir=second", "init_from=run").code == 0
    assert "identical: 12 of 12" in trainctl("verify", "second").out
    shutil.rmtree(run)
    outcome = trainctl("verify", "second")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "step 0 → 3: not verified: init_from: " in outcome.out
    assert "identical: 9 of 12 steps" in outcome.out
    config = second / "config.yaml"
    config.write_text(re.sub(r"(?m)^init_from: .*$", "init_from: last", config.read_text()))
    assert "step 0 → 3: not verified: init_from=last named the newest run" in trainctl("verify", "second").out
    for step in AT[:-1]:
        shutil.rmtree(at(second, step))
    plant(second, 12, lambda _, __, state: state.update(evaluated=12))
    outcome = trainctl("verify", "second")
    assert outcome.code == 4
    assert "no checkpoint has recorded steps after it" in outcome.err


def test_another_environment_is_said_before_the_result(
    trainctl, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = record(run)
    values["environment"] |= {"torch": "1.0.0", "device": "cuda:7 (Some GPU)", "threads": 3}
    (run / "run.json").write_text(json.dumps(values))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("threads: 1\n", "threads: auto\n"))
    plant(run, 6, lambda _, __, state: state.update(num_bad_epochs=7))
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    outcome = trainctl("verify", "run")
    said = outcome.out.splitlines()[1]
    assert f"not as it was trained: torch 1.0.0 → {torch.__version__}, device cuda:7 (Some GPU) → " in said
    assert "only the same machine, versions and threads give the same numbers" in outcome.out
    assert 3 in asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "verify needs a RUN"),
        (("run", "--steps", "0"), "--steps 0: must be a whole number"),
        (("run", "--steps=many"), "--steps many"),
    ],
)
def test_words_that_do_not_fit(trainctl, run: Path, words: tuple[str, ...], message: str) -> None:
    outcome = trainctl("verify", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2
