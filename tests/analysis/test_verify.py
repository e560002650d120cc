"""Verifying: a run's steps taken again are the same, and what is not the same is named by its cause."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_resume import (
    FED,
    OWN,
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
from trainctl.runs.directory import lock
from trainctl.training.hooks.signals import Signals

EVERY = ("checkpoint.every_steps=3", "checkpoint.keep_last=9", "display.mode=none")
AT = (3, 4, 6, 8, 9, 12)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many checkpoints are written here, and no power fails."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


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


def plant(directory: Path, step: int, change: Callable[[dict[str, Any], dict[str, Any], Any], None]) -> None:
    """Store a checkpoint again, whole, with a change made to its model, its tensors or its state."""
    content = read_checkpoint(at(directory, step))
    model, training, state = dict(content.model), dict(content.training), dict(content.state)
    change(model, training, state)
    shutil.rmtree(at(directory, step))
    save_checkpoint(directory / "checkpoints", CheckpointData(model, training, state))


def edit_metrics(directory: Path, key: str, step: int, value: Any) -> None:
    path = directory / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["step"] == step and key in line:
            line[key] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# ------------------------------------------------------------------ identical


def test_each_stretch_has_a_line_and_nothing_is_written(trainctl, run: Path) -> None:
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
        "identical: 12 of 12 steps taken again, to the last bit",
    ]
    assert touched(run) == before


@pytest.mark.parametrize(
    "words",
    [
        ("optim=adamw", "train.precision=bf16"),
        ("train.accumulate=2", "batch_size=160", "train.clip_norm=1.0", "guard=full"),
        ("scheduler=reduce_on_plateau", "scheduler.patience=0", "lr=0.3", "optim=sgd"),
        ("dataset.augment=[RandomHorizontalFlip,{RandomCrop:{size:8,padding:1}}]", "dataset.val=0"),
        pytest.param(
            ("train.patience=1", "lr=0.5", "epochs=30", "optim=sgd", "guard=none"), marks=pytest.mark.slow
        ),
        pytest.param(
            ("train.max_steps=10", "model.normalization=batch", "optim=muon"), marks=pytest.mark.slow
        ),
        pytest.param(("loop=parameters", "optim=sgd"), marks=pytest.mark.slow),
        ("loop=lightning",),
        ("model=scratch_mlp", "optim=scratch_adam", "loss=scratch_cross_entropy", "loader=scratch"),
    ],
    ids=" ".join,
)
def test_an_untouched_run_is_identical(trainctl, tmp_path: Path, words: tuple[str, ...]) -> None:
    if "loop=lightning" in words:
        # Its import draws random numbers, once a process.
        pytest.importorskip("lightning")
    own = () if "model=scratch_mlp" in words else WORDS[3:]
    assert trainctl(*WORDS[:3], *own, *EVERY, *words, "hydra.run.dir=run").code == 0
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out + outcome.err
    steps = record(tmp_path / "run")["last"]["step"]
    assert f"identical: {steps} of {steps} steps taken again" in outcome.out


def test_the_default_run_is_identical_as_far_as_it_is_asked(trainctl) -> None:
    assert trainctl("threads=1", "model.dropout=0.2", "epochs=12", "hydra.run.dir=run").code == 0
    outcome = trainctl("verify", "run", "--steps", "50")
    assert outcome.code == 0, outcome.out
    assert "step 0 → 50: identical (50 steps, 2 evaluations)" in outcome.out
    assert "identical: 50 of 240 steps taken again" in outcome.out
    outcome = trainctl("verify", "--steps=1000", "run")
    assert "identical: 240 of 240 steps taken again" in outcome.out


def test_a_few_of_the_newest_checkpoints_are_enough(trainctl, tmp_path: Path) -> None:
    kept = ("checkpoint.every_steps=7", "checkpoint.keep_last=5")
    assert trainctl(*WORDS[1:], "epochs=12", *kept, "hydra.run.dir=run", "display.mode=none").code == 0
    outcome = trainctl("verify", "run", "--steps=6")
    assert outcome.code == 0, outcome.out
    assert outcome.out.count("identical (") >= 5
    assert "step 0 → 6: identical (6 steps, 1 evaluation)" in outcome.out


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_fed_data_is_identical(trainctl, tmp_path: Path, workers: int) -> None:
    (tmp_path / "items.py").write_text(PLUGIN)
    words = (*WORDS, *FED, *EVERY[1:], f"loader.workers={workers}", "hydra.run.dir=run")
    assert trainctl(*words).code == 0
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "identical: 12 of 12 steps" in outcome.out


def test_a_run_that_was_interrupted_and_resumed_is_identical(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: Signals, run: Any, loss: Any) -> None:
        if run.state.step == 7:
            self.received = signal.SIGTERM
            self._stop(run)

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
    assert "step 6 → 8: not verified: the settings changed at step 6, whose checkpoint was not" in outcome.out
    assert "identical: 14 of 16 steps" in outcome.out


def test_a_longer_run_is_compared_from_its_start(trainctl, tmp_path: Path) -> None:
    words = (*WORDS, "display.mode=none", "hydra.run.dir=run")
    assert trainctl(*words).code == 0
    assert trainctl("resume", "run", "epochs=5", "checkpoint.every_steps=50").code == 0
    assert trainctl("resume", "run", "epochs=6", "display.every=5").code == 0
    shutil.rmtree(at(tmp_path / "run", 12), ignore_errors=True)
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out
    assert (
        "settings changed at step 12: train.epochs: 3 → 5, checkpoint.every_steps: null → 50" in outcome.out
    )
    assert "identical: 24 of 24 steps" in outcome.out


def test_a_run_whose_loss_was_not_finite_is_identical_up_to_there(trainctl, tmp_path: Path) -> None:
    words = (*WORDS, *EVERY[1:], "checkpoint.every_steps=1", "optim=sgd", "lr=1e30", "hydra.run.dir=run")
    assert trainctl(*words).code == 6
    outcome = trainctl("verify", "run")
    assert outcome.code == 0, outcome.out
    assert "step 0 → 1: identical (1 step)" in outcome.out


# ------------------------------------------------------------------ what differs is named by its cause


def test_another_optimizer_state_is_named(trainctl, run: Path) -> None:
    def change(model: Any, training: Any, state: Any) -> None:
        training["optimizer.state.0.momentum_buffer"] += 1e-3

    plant(run, 6, change)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "step 4 → 6: differs: optimizer at step 6: state.0.momentum_buffer" in outcome.out
    assert "step 6 → 8: differs: loss of step 8" in outcome.out
    assert "differs, first in: optimizer at step 6: state.0.momentum_buffer" in outcome.out


def test_other_random_numbers_are_named(trainctl, run: Path) -> None:
    def change(model: Any, training: Any, state: Any) -> None:
        training["random.torch"] = torch.Generator().manual_seed(5).get_state()

    plant(run, 6, change)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "differs, first in: random numbers at step 6: torch" in outcome.out
    assert "step 6 → 8: differs: loss of step 7: " in outcome.out


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_other_random_numbers_of_python_and_numpy_are_named(trainctl, run: Path, name: str) -> None:
    def change(model: Any, training: Any, state: Any) -> None:
        training[f"random.{name}.1"][3] += 1

    plant(run, 6, change)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert f"differs, first in: random numbers at step 6: {name}.1" in outcome.out


def test_another_state_of_the_scheduler_is_named(trainctl, run: Path) -> None:
    def change(model: Any, training: Any, state: Any) -> None:
        items = state["scheduler"]["items"]
        items[[key for key, _ in items].index("last_epoch")][1] += 1

    plant(run, 6, change)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "differs, first in: scheduler at step 6: last_epoch: 7 recorded, 6 now" in outcome.out


def test_another_state_of_a_plateau_is_the_schedulers(trainctl, tmp_path: Path) -> None:
    words = ("scheduler=reduce_on_plateau", "hydra.run.dir=run")
    assert trainctl(*WORDS, "checkpoint.keep_last=9", "display.mode=none", *words).code == 0

    def change(model: Any, training: Any, state: Any) -> None:
        items = state["hooks"]["Plateau"]["items"]
        items[[key for key, _ in items].index("num_bad_epochs")][1] = 4

    plant(tmp_path / "run", 8, change)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "differs, first in: scheduler at step 8: num_bad_epochs: 4 recorded, " in outcome.out


def test_other_weights_are_named(trainctl, run: Path) -> None:
    def change(model: Any, training: Any, state: Any) -> None:
        next(iter(model.values())).view(-1)[0] += 1e-6

    plant(run, 6, change)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "differs, first in: weights at step 6: layers." in outcome.out


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("position", 0, "data order at step 6: position: 0 recorded, 640 now"),
        ("order", "0" * 64, "data order: the training targets, or their order"),
        ("stale", 7, "best and early stopping at step 6: stale: 7 recorded"),
    ],
)
def test_what_else_a_checkpoint_holds_is_named(trainctl, run: Path, key: str, value: Any, named: str) -> None:
    plant(run, 6, lambda model, training, state: state.update({key: value}))
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert f"differs, first in: {named}" in outcome.out


def test_changed_data_is_named(trainctl, tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    assert trainctl(*TABLE, *EVERY, "hydra.run.dir=run").code == 0
    assert trainctl("verify", "run").code == 0
    write_table(tmp_path / "table.csv", shift=1)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "differs, first in: data order: the training targets, or their order, are not" in outcome.out


@pytest.mark.parametrize(
    ("key", "step", "named"),
    [
        ("train/loss", 5, "loss of step 5: 0.5 recorded, "),
        ("lr", 8, "learning rate of step 8: 0.5 recorded, "),
        ("val/accuracy", 8, "evaluation at step 8: val/accuracy: 0.5 recorded, "),
    ],
)
def test_another_value_in_the_metrics_is_named(trainctl, run: Path, key: str, step: int, named: str) -> None:
    then = next(line[key] for line in metrics(run) if line["step"] == step and key in line)
    edit_metrics(run, key, step, 0.5)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert f"differs, first in: {named}{then} now" in outcome.out
    assert outcome.out.count("differs: ") == 1


def test_lines_that_are_missing_or_too_many_are_named(trainctl, run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"step": 5,' not in line))
    assert "loss of step 5: metrics.jsonl has none" in trainctl("verify", "run").out
    path.write_text("".join(line for line in lines if not ('"step": 8,' in line and "val/" in line)))
    assert "evaluation at step 8: made now, not recorded" in trainctl("verify", "run").out
    more = json.dumps({"step": 7, "epoch": 2, "val/loss": 1.0, "val/accuracy": 0.1}) + "\n"
    path.write_text("".join([*lines, more]))
    assert "evaluation at step 7: recorded, not made now" in trainctl("verify", "run").out
    path.write_text("".join(["{]\n", *lines]))
    outcome = trainctl("verify", "run")
    assert outcome.code == 2
    assert "metrics.jsonl line 1 is damaged" in outcome.err


@pytest.mark.parametrize(
    ("what", "broken", "named"),
    [
        ("set_random_states", lambda states, device: None, "random numbers at step 3: not read back"),
        ("unpack", None, "scheduler at step 3: not read back"),
    ],
    ids=["random", "scheduler"],
)
def test_a_fault_of_resuming_itself_is_named(
    trainctl, run: Path, monkeypatch: pytest.MonkeyPatch, what: str, broken: Any, named: str
) -> None:
    if broken is not None:
        monkeypatch.setattr(snapshot, what, broken)
    else:
        from torch.optim.lr_scheduler import LambdaLR

        monkeypatch.setattr(LambdaLR, "load_state_dict", lambda self, state: None)
    outcome = trainctl("verify", "run")
    assert outcome.code == 1
    assert "step 0 → 3: identical" in outcome.out
    assert f"differs, first in: {named}" in outcome.out


# ------------------------------------------------------------------ what cannot be verified


def test_a_run_that_is_being_trained_is_refused(trainctl, run: Path) -> None:
    with lock(run):
        before = touched(run)
        outcome = trainctl("verify", "run")
        assert touched(run) == before
    assert outcome.code == 7
    assert "another process is training in it" in outcome.err
    assert trainctl("verify", "run").code == 0
    with lock(run):
        pass


def test_without_a_checkpoint_there_is_nothing_to_prove(trainctl, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    outcome = trainctl("verify", "run")
    assert outcome.code == 4
    assert "has no checkpoint" in outcome.err
    (run / "config.yaml").unlink()
    assert trainctl("verify", "run").code == 4


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


def test_the_run_it_began_with_is_gone(trainctl, run: Path, tmp_path: Path) -> None:
    words = (*WORDS, *EVERY, "hydra.run.dir=second")
    assert trainctl(*words, "init_from=run").code == 0
    assert "identical: 12 of 12" in trainctl("verify", "second").out
    shutil.rmtree(run)
    outcome = trainctl("verify", "second")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "step 0 → 3: not verified: init_from: " in outcome.out
    assert "step 3 → 4: identical" in outcome.out
    assert "identical: 9 of 12 steps" in outcome.out
    for step in AT[:-1]:
        shutil.rmtree(at(tmp_path / "second", step))
    plant(tmp_path / "second", 12, lambda model, training, state: state.update(evaluated=12))
    outcome = trainctl("verify", "second")
    assert outcome.code == 4
    assert "no checkpoint has recorded steps after it" in outcome.err


def test_which_run_was_the_last_is_not_known_any_more(trainctl, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    assert trainctl(*WORDS, *EVERY).code == 0
    assert trainctl(*WORDS, *EVERY, "init_from=last", "hydra.run.dir=second").code == 0
    outcome = trainctl("verify", "second")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "step 0 → 3: not verified: init_from=last was another run then" in outcome.out


def test_a_changed_plugin_is_refused_unless_it_is_trusted(trainctl, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    words = (*WORDS, *EVERY, "plugins=[./own.py]", "scheduler.name=own", "hydra.run.dir=run")
    assert trainctl(*words).code == 0
    assert trainctl("verify", "run").code == 0
    (tmp_path / "own.py").write_text(OWN + "\n# another\n")
    outcome = trainctl("verify", "run")
    assert outcome.code == 3
    assert "--trust-plugins" in outcome.err
    assert trainctl("verify", "run", "--trust-plugins").code == 0


def test_other_versions_and_devices_are_said_before_the_result(trainctl, run: Path) -> None:
    values = record(run)
    values["environment"] |= {"torch": "1.0.0", "device": "cuda:7 (Some GPU)"}
    (run / "run.json").write_text(json.dumps(values))
    edit_metrics(run, "train/loss", 5, 0.5)
    outcome = trainctl("verify", "run")
    said = outcome.out.splitlines()[1]
    assert f"not as it was trained: torch 1.0.0 → {torch.__version__}, device cuda:7 (Some GPU) → " in said
    assert "the same is promised on the same machine, versions and threads only" in outcome.out


def test_the_recorded_number_of_threads_is_used(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [word for word in WORDS if not word.startswith("threads")]
    assert trainctl(*words, *EVERY, "hydra.run.dir=run", "threads=auto").code == 0
    values = record(tmp_path / "run")
    values["environment"]["threads"] = 3
    (tmp_path / "run" / "run.json").write_text(json.dumps(values))
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    trainctl("verify", "run", "--steps=1")
    assert 3 in asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "verify needs a RUN"),
        (("run", "run"), "verify takes one RUN"),
        (("lr=1",), "one RUN"),
        (("nothing",), "no such directory"),
        (("run", "--step", "3"), "did you mean --steps?"),
        (("run", "--steps", "0"), "--steps 0: must be a whole number"),
        (("run", "--steps"), "--steps"),
        (("run", "--steps=many"), "--steps many"),
    ],
)
def test_words_that_do_not_fit(trainctl, run: Path, words: tuple[str, ...], message: str) -> None:
    outcome = trainctl("verify", *words)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2
