"""Resuming: an interrupted run ends as if it had not been, and what cannot be honoured is refused."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.program import start, wait_for
from tests.helpers.runs import (
    EVERY,
    FED,
    OWN,
    PLUGIN,
    STEPS,
    TABLE,
    WORDS,
    at,
    config,
    damage,
    everything,
    killed_after,
    learning_rates,
    metrics,
    record,
    same_end,
    saved,
    state,
    write_table,
)
from trainctl.checkpoint.format import MODEL, STATE, TRAINING
from trainctl.cli.main import main
from trainctl.errors import ConfigError
from trainctl.training import train as training
from trainctl.training.display import Display
from trainctl.training.hooks.signals import Signals
from trainctl.training.request import Request
from trainctl.training.session import Session


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert main([*WORDS, *EVERY[:3], f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.fixture
def whole(trained: Path, tmp_path: Path) -> Path:
    """A finished run that has kept every step."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_finished_run_takes_no_value_that_it_was_not_trained_with(trainctl, whole: Path) -> None:
    before = everything(whole)
    outcome = trainctl("resume", "run", "lr=0.5", "name=other")
    assert outcome.code == 2
    assert (
        "run: this run is finished, and has nothing left to train with name=other, optim.lr=0.5"
        in outcome.err
    )
    assert everything(whole) == before
    assert trainctl("resume", "run", "lr=0.5", "epochs=4").code == 0
    assert record(whole)["last"]["step"] == STEPS // 3 * 4


# ------------------------------------------------------------------ as if nothing had happened

EACH = range(1, STEPS + 1)
SOME = (1, 4, 6, 11)
COURSES = [
    ((), EACH),
    (("train.accumulate=2", "batch_size=160", "train.precision=bf16", "optim=adamw"), EACH),
    (("optim=sgd_momentum", "scheduler=cosine", "scheduler.warmup=2", "train.clip_norm=1.0"), SOME),
    (("scheduler=reduce_on_plateau", "scheduler.patience=0", "lr=0.3", "optim=sgd"), SOME),
    (("dataset.augment=[RandomHorizontalFlip,{RandomCrop:{size:8,padding:1}}]",), SOME),
    (("optim=muon",), SOME[:1]),
]


@pytest.mark.quick(1)
@pytest.mark.parametrize(("words", "steps"), COURSES, ids=[" ".join(words) for words, _ in COURSES])
def test_a_run_interrupted_after_any_step_ends_as_one_that_was_not(
    trainctl, tmp_path: Path, words: tuple[str, ...], steps: Sequence[int]
) -> None:
    assert trainctl(*WORDS, *words, *EVERY).code == 0
    run = tmp_path / "run"
    assert [line["step"] for line in metrics(run) if "lr" in line] == list(range(1, STEPS + 1))
    for step in steps:
        cut = killed_after(run, step)
        outcome = trainctl("resume", "cut")
        assert outcome.code == 0, outcome.err
        assert f"resumed from step-{step:08d}" in outcome.out + (cut / "train.log").read_text()
        assert same_end(cut, run), step
        assert record(cut)["status"] == "done"
        assert record(cut)["resumed"]["step"] == step
        assert {key: record(cut)[key] for key in ("best", "last", "test")} == {
            key: record(run)[key] for key in ("best", "last", "test")
        }


@pytest.mark.quick(1)
@pytest.mark.parametrize("workers", [0, 2])
def test_worker_fed_data_goes_on_with_the_next_sample(trainctl, tmp_path: Path, workers: int) -> None:
    (tmp_path / "items.py").write_text(PLUGIN)
    assert trainctl(*WORDS, *FED, *EVERY, f"loader.workers={workers}").code == 0
    for step in (1, 4, 6, 9, 11) if workers == 0 else (2, 4, 9):
        cut = killed_after(tmp_path / "run", step)
        outcome = trainctl("resume", "cut", "--trust-plugins")  # a copy is not what this user trained
        assert outcome.code == 0, outcome.err
        assert same_end(cut, tmp_path / "run"), step


def test_interrupted_in_the_middle_of_an_evaluation(
    trainctl, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll_signals = Signals.poll

    def poll(self: Signals, run: Any) -> None:
        if run.state.step == 8:
            self.received = signal.SIGTERM
        poll_signals(self, run)

    with monkeypatch.context() as patch:
        patch.setattr(Signals, "poll", poll)
        outcome = trainctl(*WORDS, *EVERY[2:3], "hydra.run.dir=other")
    assert outcome.code == 143
    (said, remedy) = outcome.err.splitlines()
    assert said == "stopped: terminated: the run was saved in other/checkpoints/step-00000008"
    assert remedy.endswith("trainctl resume other")
    other = whole.with_name("other")
    assert saved(other) == [4, 8]
    assert state(other, 8)["evaluated"] == 4
    assert trainctl("resume", "other").code == 0
    assert metrics(other) == metrics(whole)
    assert (at(other, STEPS) / MODEL).read_bytes() == (at(whole, STEPS) / MODEL).read_bytes()


# ------------------------------------------------------------------ settings that change


def test_a_new_learning_rate_holds_from_the_next_step_on(trainctl, whole: Path) -> None:
    cut = killed_after(whole, 5)
    outcome = trainctl("resume", "cut", "lr=0.01", "display.mode=plain")
    assert outcome.code == 0, outcome.err
    assert "changed: optim.lr: 0.001 → 0.01 (the new value wins)" in outcome.out
    assert learning_rates(cut) == [0.001] * 5 + [0.01] * 7
    assert metrics(cut)[:6] == metrics(whole)[:6]
    assert metrics(cut)[-1] != metrics(whole)[-1]
    assert config(cut)["optim"]["lr"] == 0.01
    changes = record(cut)["resumed"]["changes"]
    assert changes == {"optim.lr": [0.001, 0.01], "display.mode": ["none", "plain"]}
    assert record(cut)["resumed"]["command"] == "trainctl resume cut lr=0.01 display.mode=plain"


@pytest.mark.slow
def test_a_new_learning_rate_is_not_lost_with_a_kill_before_the_next_checkpoint(
    trainctl, whole: Path
) -> None:
    cut = killed_after(whole, 5)
    assert trainctl("resume", "cut", "lr=0.01").code == 0
    expected = metrics(cut)
    again = killed_after(cut, 5, "again")
    outcome = trainctl("resume", "again", "display.mode=plain")
    assert outcome.code == 0, outcome.err
    assert "changed: optim.lr: 0.001 → 0.01" in outcome.out
    assert metrics(again) == expected
    # After a checkpoint of its own it is nothing new any more.
    later = killed_after(cut, 9, "later")
    outcome = trainctl("resume", "later", "display.mode=plain")
    assert "optim.lr" not in outcome.out
    assert metrics(later) == expected


@pytest.mark.slow
def test_an_older_checkpoint_than_that_of_a_change_takes_the_change_on(trainctl, whole: Path) -> None:
    cut = killed_after(whole, 7)
    assert trainctl("resume", "cut", "lr=0.01").code == 0
    again = killed_after(cut, 3, "again")
    assert trainctl("resume", "again").code == 0
    assert learning_rates(again) == [0.001] * 3 + [0.01] * 9
    last = killed_after(again, 5, "last")
    assert trainctl("resume", "last").code == 0
    assert metrics(last) == metrics(again)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("cosine", "warmup=2"),
        ("one_cycle", "end=100.0"),
        pytest.param("step", "epochs=1", marks=pytest.mark.slow),
        pytest.param("cosine_restarts", "epochs=1", marks=pytest.mark.slow),
        pytest.param("exponential", "gamma=0.9", marks=pytest.mark.slow),
        pytest.param("inverse_sqrt", "warmup=2", marks=pytest.mark.slow),
        pytest.param("linear", "warmup=2", marks=pytest.mark.slow),
        pytest.param("multi_step", "milestones=[1,2]", marks=pytest.mark.slow),
        pytest.param("polynomial", "power=2.0", marks=pytest.mark.slow),
    ],
)
def test_under_a_schedule_the_new_course_counts_as_followed_from_the_start(
    trainctl, tmp_path: Path, name: str, argument: str
) -> None:
    words = (*WORDS[1:], f"scheduler={name}", f"scheduler.{argument}", "optim=sgd_momentum", *EVERY[:3])
    assert trainctl(*words, "epochs=3", "hydra.run.dir=run").code == 0
    assert trainctl(*words, "epochs=4", "lr=0.02", "hydra.run.dir=other").code == 0
    cut = killed_after(tmp_path / "run", 5)
    outcome = trainctl("resume", "cut", "epochs=4", "lr=0.02", "--allow-change")
    assert outcome.code == 0, outcome.err
    before, after = learning_rates(tmp_path / "run")[:5], learning_rates(tmp_path / "other")[5:]
    assert learning_rates(cut) == [*before, *after]
    ended, expected = state(cut, 16), state(tmp_path / "other", 16)
    assert ended["parts"]["scheduler"] == expected["parts"]["scheduler"]
    assert (
        dict(ended["parts"]["optimizer"]["items"])["param_groups"]
        == (dict(expected["parts"]["optimizer"]["items"])["param_groups"])
    )


@pytest.mark.slow
def test_a_plateau_keeps_its_reductions_under_a_new_learning_rate(trainctl, tmp_path: Path) -> None:
    words = ("scheduler=reduce_on_plateau", "scheduler.patience=0", "scheduler.threshold=0.5", "optim=sgd")
    assert trainctl(*WORDS, *words, *EVERY).code == 0
    before = learning_rates(tmp_path / "run")
    assert before[8] == pytest.approx(before[0] / 10)
    cut = killed_after(tmp_path / "run", 9)
    assert trainctl("resume", "cut", "lr=0.5").code == 0
    assert learning_rates(cut) == [*before[:9], *[pytest.approx(0.05)] * 3]
    again = killed_after(cut, 10, "again")
    assert trainctl("resume", "again", "lr=0.25", "epochs=4").code == 0
    assert learning_rates(again)[10:12] == [pytest.approx(0.025)] * 2
    longer = killed_after(tmp_path / "run", 9, "longer")
    assert trainctl("resume", "longer", "epochs=4").code == 0
    assert learning_rates(longer)[:12] == before


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (("optim=sgd_momentum", "optim.momentum=0.5"), "momentum", 0.9),
        (("optim=adamw", "optim.weight_decay=0.1"), "weight_decay", 0.3),
        (("optim=adam",), "betas", [0.5, 0.9]),
    ],
)
@pytest.mark.slow
def test_the_optimizers_other_settings_take_the_new_value(
    trainctl, tmp_path: Path, words: tuple[str, ...], key: str, value: Any
) -> None:
    assert trainctl(*WORDS, *words, *EVERY).code == 0
    cut = killed_after(tmp_path / "run", 5)
    outcome = trainctl("resume", "cut", f"optim.{key}={value}".replace(" ", ""))
    assert outcome.code == 0, outcome.err
    groups = dict(state(cut, STEPS)["parts"]["optimizer"]["items"])["param_groups"]
    kept = dict(groups[0]["items"])[key]
    assert kept == ({"tuple": value} if isinstance(value, list) else value)
    assert metrics(cut)[:6] == metrics(tmp_path / "run")[:6]
    assert metrics(cut)[-1] != metrics(tmp_path / "run")[-1]


def test_more_epochs_extend_a_finished_run(trainctl, whole: Path) -> None:
    assert trainctl(*WORDS, *EVERY[:3], "hydra.run.dir=long", "epochs=5").code == 0
    outcome = trainctl("resume", "run", "train.epochs=5")
    assert outcome.code == 0, outcome.err
    assert same_end(whole, whole.with_name("long"), 20)
    assert record(whole)["last"]["step"] == 20
    assert config(whole)["train"]["epochs"] == 5
    assert trainctl("resume", "run", "epochs=2").code == 2


def test_a_finished_run_says_so_and_is_left_alone(trainctl, whole: Path) -> None:
    before = everything(whole)
    outcome = trainctl("resume", "run")
    assert outcome.code == 0
    assert "finished" in outcome.out
    assert "train longer with trainctl resume run epochs=N" in outcome.out
    assert {name: before[name] for name in before if not name.endswith(".lock")} == {
        name: content for name, content in everything(whole).items() if not name.endswith(".lock")
    }


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "words",
    [
        ("guard=full",),
        ("guard=none",),
        ("checkpoint.every_steps=5",),
        ("checkpoint.keep_last=2", "checkpoint.every_minutes=1"),
        ("display.every=1",),
        ("name=mine",),
        ("loader.workers=0",),
    ],
    ids=" ".join,
)
def test_what_does_not_reach_the_training_may_change(trainctl, whole: Path, words: tuple[str, ...]) -> None:
    cut = killed_after(whole, 5)
    outcome = trainctl("resume", "cut", *words)
    assert outcome.code == 0, outcome.err
    assert metrics(cut) == metrics(whole)
    assert (at(cut, STEPS) / TRAINING).read_bytes() == (at(whole, STEPS) / TRAINING).read_bytes()


INEXACT = [
    ((), "seed=1", "seed: 0 → 1"),
    ((), "dataset.val=0.3", "dataset.val: 0.15 → 0.3"),
    ((), "train.monitor=val/loss", "train.monitor: auto → val/loss"),
    ((), "train.metrics=[f1]", "train.metrics: auto → [f1]"),
    ((), "device=cpu", "device: auto → cpu"),
    (("scheduler=cosine",), "epochs=5", "train.epochs: 3 → 5"),
    (("scheduler=cosine",), "train.max_steps=8", "train.max_steps: null → 8"),
    (("scheduler=one_cycle",), "batch_size=160", "train.batch_size: 320 → 160"),
    (("scheduler=exponential",), "scheduler.gamma=0.5", "scheduler.gamma: 0.95 → 0.5"),
]


@pytest.mark.parametrize(("words", "change", "named"), INEXACT, ids=[change for _, change, _ in INEXACT])
@pytest.mark.slow
def test_what_cannot_be_honoured_exactly_must_be_allowed(
    trainctl, tmp_path: Path, words: tuple[str, ...], change: str, named: str
) -> None:
    assert trainctl(*WORDS, *words, *EVERY).code == 0
    cut = killed_after(tmp_path / "run", 5)
    before = everything(cut)
    outcome = trainctl("resume", "cut", change)
    assert outcome.code == 2
    assert f"error: {named.partition(':')[0]}" in outcome.err
    assert named.rpartition("→")[2] in outcome.err
    assert "--allow-change" in outcome.err
    assert everything(cut).items() - before.items() <= {
        (str(cut / ".lock"), everything(cut)[str(cut / ".lock")])
    }
    outcome = trainctl("resume", "cut", change, "--allow-change", "display.mode=plain")
    assert outcome.code == 0, outcome.err
    assert "the new value wins; " in outcome.out
    assert record(cut)["status"] == "done"


OTHER = [
    "model=lenet",
    "optim=sgd",
    "scheduler=step",
    "loss=nll",
    "dataset=mnist",
    "experiment=mnist_mlp",
    "loop=parameters",
    "model.name=linear",
]


@pytest.mark.parametrize("word", OTHER)
@pytest.mark.parametrize("options", [(), ("--allow-change",)], ids=["", "allowed"])
def test_a_different_component_is_refused(trainctl, whole: Path, word: str, options: tuple[str, ...]) -> None:
    cut = killed_after(whole, 5)
    outcome = trainctl("resume", "cut", word, *options)
    assert outcome.code == 2
    experiment = word.startswith("experiment")
    assert ("to an existing run" if experiment else "cannot resume with a different") in outcome.err
    assert len(outcome.err.splitlines()) == 2
    assert record(cut)["status"] == "running"


@pytest.mark.parametrize(
    ("word", "messages"),
    [
        ("optim.lrr=1", ["optim.lrr", "lr"]),
        ("lrr=1", ["lrr", "lr"]),
        ("train.epoch=20", ["train.epoch", "train.epochs"]),
        ("lr=fast", ["optim.lr=fast"]),
        ("lr=-1", ["optim.lr=-1"]),
        ("epochs=1", ["12 steps already", "train.epochs"]),
        ("hydra.run.dir=other", ["hydra.run.dir=other"]),
        ("~lr", ["lr"]),
        ("model.hidden=[8]", ["do not fit the model: layers.0.bias is (16,) there, (8,) here", "init_from"]),
        ("--force", ["--force", "--allow-change"]),
    ],
)
def test_words_that_do_not_fit_are_refused(trainctl, whole: Path, word: str, messages: list[str]) -> None:
    before = (whole / "config.yaml").read_bytes()
    outcome = trainctl("resume", "run", word)
    assert outcome.code == 2
    for message in messages:
        assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert (whole / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("frozen", ["[]", "[layers.3.bias]"])
def test_another_set_of_frozen_parameters_is_refused(trainctl, tmp_path: Path, frozen: str) -> None:
    assert trainctl(*WORDS, *EVERY, "model.hidden=[16,16]", "model.freeze=[layers.0.bias]").code == 0
    killed_after(tmp_path / "run", 5)
    outcome = trainctl("resume", "cut", f"model.freeze={frozen}", "--allow-change")
    assert outcome.code == 2
    assert f"model.freeze: [layers.0.bias] → {frozen}" in outcome.err
    assert "init_from=RUN" in outcome.err


def test_a_value_that_was_not_given_is_shown_as_its_default(trainctl, whole: Path) -> None:
    killed_after(whole, 5)
    outcome = trainctl("resume", "cut", "optim.betas=[0.5,0.9]", "optim.eps=1e-8", "display.mode=plain")
    assert "changed: optim.betas: [0.9, 0.999] → [0.5, 0.9]" in outcome.out
    assert "optim.eps" not in outcome.out


def test_what_is_best_is_asked_anew_where_it_is_another_value(trainctl, whole: Path) -> None:
    cut = killed_after(whole, 9)
    assert trainctl("resume", "cut", "train.metrics=[f1]", "--allow-change").code == 0
    assert set(record(cut)["best"]) == {"step", "epoch", "val/loss", "val/f1"}
    losses = {line["step"]: line["val/loss"] for line in metrics(cut) if "val/f1" in line}
    assert record(cut)["best"]["step"] == min(losses, key=losses.__getitem__)


# ------------------------------------------------------------------ what is carried on


@pytest.mark.slow
def test_early_stopping_counts_on_across_an_interruption(trainctl, tmp_path: Path) -> None:
    words = ("batch_size=320", "threads=1", "lr=0.1", "epochs=50", "train.patience=3", *EVERY)
    assert trainctl(*words).code == 0
    run = tmp_path / "run"
    end = record(run)["last"]["step"]
    assert end < 200
    stale = {step: state(run, step)["num_bad_epochs"] for step in saved(run)}
    for step in (next(step for step in stale if stale[step] == wanted) for wanted in (1, 2)):
        cut = killed_after(run, step)
        assert trainctl("resume", "cut").code == 0
        assert same_end(cut, run, end)
        assert record(cut)["reason"] == record(run)["reason"]
    finished = trainctl("resume", "run")
    assert finished.code == 0
    assert "finished" in finished.out


@pytest.mark.slow
def test_more_patience_lets_a_stopped_run_go_on(trainctl, tmp_path: Path) -> None:
    words = ("batch_size=320", "threads=1", "lr=0.1", "epochs=50", "display.mode=none")
    assert trainctl(*words, "train.patience=2", "hydra.run.dir=run").code == 0
    assert trainctl(*words, "train.patience=4", "hydra.run.dir=long").code == 0
    stopped = record(tmp_path / "run")
    cut = killed_after(tmp_path / "run", stopped["last"]["step"])
    assert trainctl("resume", "cut").code == 0
    assert metrics(cut) == metrics(tmp_path / "run")
    assert record(cut)["reason"] == stopped["reason"]
    assert stopped["reason"].startswith("no better val/accuracy")
    assert trainctl("resume", "run", "train.patience=4").code == 0
    run, long = tmp_path / "run", tmp_path / "long"
    assert metrics(run) == metrics(long)
    assert record(run)["reason"] == record(long)["reason"]


# ------------------------------------------------------------------ checkpoints that are not there


def test_without_a_checkpoint_it_says_how_to_start_again(trainctl, whole: Path) -> None:
    killed_after(whole, 0)
    outcome = trainctl("resume", "cut")
    assert outcome.code == 4
    assert "no checkpoint" in outcome.err
    assert f"trainctl {' '.join(WORDS[:2])}" in outcome.err


@pytest.mark.parametrize("name", [MODEL, TRAINING, STATE, "manifest.json"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(trainctl, whole: Path, name: str) -> None:
    cut = killed_after(whole, 7)
    damage(cut, 7, name)
    damage(cut, 6, name)
    outcome = trainctl("resume", "cut", "display.mode=plain")
    assert outcome.code == 0, outcome.err
    assert "resumed from step-00000005" in outcome.out
    for step in (6, 7):
        assert f"damaged checkpoint set aside as damaged-step-{step:08d}" in outcome.out
        assert (cut / "checkpoints" / f"damaged-step-{step:08d}").is_dir()
    assert name in outcome.out or name == "manifest.json"
    assert record(cut)["resumed"]["damaged"] == ["step-00000007", "step-00000006"]
    assert metrics(cut) == metrics(whole)
    assert saved(cut) == saved(whole)


def test_nothing_is_changed_where_all_are_damaged(trainctl, whole: Path) -> None:
    cut = killed_after(whole, 2)
    damage(cut, 1)
    damage(cut, 2)
    before = everything(cut)
    outcome = trainctl("resume", "cut", "lr=0.1")
    assert outcome.code == 4
    assert "step-00000001" in outcome.err
    assert "step-00000002" in outcome.err
    after = everything(cut)
    after.pop(str(cut / ".lock"))
    before.pop(str(cut / ".lock"))
    assert after == before


# ------------------------------------------------------------------ what is not the run's any more


@pytest.mark.slow
def test_data_given_anew_is_stored_for_every_folder(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(tmp_path / "table.csv")
    assert (
        trainctl(*TABLE, "hydra.run.dir=run", "checkpoint.every_steps=1", "checkpoint.keep_last=99").code == 0
    )
    cut = killed_after(tmp_path / "run", 3)
    (tmp_path / "table.csv").rename(tmp_path / "moved.csv")
    assert trainctl("resume", "cut", "dataset.path=moved.csv", "--allow-change").code == 0
    assert metrics(cut) == metrics(tmp_path / "run")
    assert config(cut)["dataset"]["path"] == str(tmp_path / "moved.csv")


@pytest.mark.slow
def test_a_run_with_a_scheduler_of_ones_own_can_be_extended(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainctl import registry
    from trainctl.registry import plugins

    (tmp_path / "own.py").write_text(OWN)
    assert trainctl(*WORDS, *EVERY, "plugins=[./own.py]", "scheduler.name=own").code == 0
    # A process that has not seen it yet.
    plugins._loaded.clear()
    del registry.COMPONENTS["scheduler"]._entries["own"]
    outcome = trainctl("resume", "run", "epochs=4")
    assert outcome.code == 0, outcome.err


def test_the_run_it_began_with_may_be_gone(trainctl, whole: Path, tmp_path: Path) -> None:
    assert trainctl(*WORDS, "init_from=run", "hydra.run.dir=second", *EVERY[:3]).code == 0
    cut = killed_after(tmp_path / "second", 5)
    shutil.rmtree(whole)
    outcome = trainctl("resume", "cut", "display.mode=plain")
    assert outcome.code == 0, outcome.err
    assert "tensors copied" not in outcome.out
    assert metrics(cut) == metrics(tmp_path / "second")
    assert config(cut)["init_from"] == str(whole)


# ------------------------------------------------------------------ which run


def test_a_moved_run_is_resumed_from_another_folder(
    trainctl, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = killed_after(whole, 5)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = cut.rename(elsewhere / "moved")
    monkeypatch.chdir(elsewhere)
    assert trainctl("resume", "moved").code == 0
    assert metrics(moved) == metrics(whole)
    assert not (tmp_path / "cut").exists()


def test_last_and_a_name_find_the_run(trainctl, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    assert trainctl(*WORDS, "name=first", "hydra.run.dir=outputs/one").code == 0
    assert trainctl(*WORDS, "name=second", "hydra.run.dir=outputs/two").code == 0
    assert trainctl("resume", "last", "epochs=4").code == 0
    assert record(tmp_path / "outputs/two")["last"]["step"] == 16
    assert trainctl("resume", "first", "epochs=4").code == 0
    assert record(tmp_path / "outputs/one")["last"]["step"] == 16
    # The one that was resumed is the newest now.
    assert trainctl("resume", "last", "epochs=5").code == 0
    assert record(tmp_path / "outputs/one")["last"]["step"] == 20
    for words in ((), ("nobody",), ("lr=1",)):
        assert trainctl("resume", *words).code == 2


def test_what_steps_by_hand_does_not_resume(trainctl, tmp_path: Path) -> None:
    assert trainctl(*WORDS, *EVERY, "loop=parameters", "optim=sgd").code == 0
    killed_after(tmp_path / "run", 5)
    outcome = trainctl("resume", "cut")
    assert outcome.code == 2
    assert "loop=parameters cannot be resumed" in outcome.err
    assert "start it again: trainctl " in outcome.err


# ------------------------------------------------------------------ signals


@pytest.mark.slow
def test_the_warning_of_a_scheduler_saves_and_the_run_goes_on(trainctl, tmp_path: Path) -> None:
    words = ("threads=1", "epochs=100000", "hydra.run.dir=run", "display.mode=none")
    process = start(*words, cwd=tmp_path)
    wait_for(lambda: saved(tmp_path / "run"))
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the run was saved" in err
    stopped = saved(tmp_path / "run")[-1]
    assert record(tmp_path / "run")["status"] == "terminated"
    assert trainctl("resume", "run", f"train.max_steps={stopped + 3}").code == 0
    steps = [line["step"] for line in metrics(tmp_path / "run") if "lr" in line]
    assert steps == list(range(1, stopped + 4))


def test_no_other_process_takes_a_run_between_its_reading_and_its_training(
    trainctl, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that waits there would go on from a checkpoint that the other has left behind."""
    inner, codes, before = training.train, [], record(whole)

    def held(request: Request, display: Display) -> dict[str, Any]:
        codes.append(main(["resume", "run", "train.epochs=9"]))
        return inner(request, display)

    def begun(session: Session) -> None:
        codes.append({key: record(whole)[key] for key in ("status", "best", "last", "test")})
        raise ConfigError("stopped before its first step")

    monkeypatch.setattr(training, "train", held)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "run", begun)
        assert trainctl("resume", "run", "train.epochs=5").code == 2
    # What it had reached holds no longer once it trains, and still holds where it did not begin.
    assert codes == [7, {"status": "running", "best": None, "last": None, "test": None}]
    assert record(whole) == before
    assert trainctl("resume", "run", "train.epochs=5").code == 0
    assert record(whole)["last"]["epoch"] == 5


def test_a_resumed_run_says_what_was_lost_and_ends(trainctl, whole: Path) -> None:
    """Its best checkpoint is gone or damaged, which it could not test at the end; its metrics are cut off."""
    cut = killed_after(whole, 9)
    lost = state(cut, 9)["best"]["step"]
    damage(cut, lost)
    (cut / "metrics.jsonl").write_text("")
    outcome = trainctl("resume", "cut", "display.mode=none")
    assert outcome.code == 0, outcome.err
    said = outcome.out + (cut / "train.log").read_text()
    assert f"the best checkpoint, step-{lost:08d}, is lost" in said
    assert f"damaged checkpoint set aside as damaged-step-{lost:08d}" in said
    assert " bytes that the run wrote before this step" in said
    assert record(cut)["best"]["step"] > 9
    assert trainctl("eval", "cut").code == 0
