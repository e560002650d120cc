"""Whole runs: what they leave, how they end, and that two equal ones are equal to the last bit."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

import trainctl as package
from tests.helpers.files import put
from tests.helpers.program import PROGRAM, modules_after, start, wait_for
from tests.helpers.runs import metrics, record
from trainctl.errors import ConfigError

FAST = ("epochs=2", "threads=1")


def test_the_default_run_learns_the_digits_and_leaves_what_it_says(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("threads=1", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    directory = tmp_path / "run"
    kept = {path.name for path in directory.iterdir()}
    assert kept == {
        ".lock",
        "config.yaml",
        "overrides.yaml",
        "run.json",
        "metrics.jsonl",
        "train.log",
        "checkpoints",
    }

    values = record(directory)
    assert values["version"] == 1
    assert (values["status"], values["exit_code"], values["engine"]) == ("done", 0, "standard")
    assert values["command"] == "trainctl threads=1 hydra.run.dir=run"
    assert values["environment"]["threads"] == 1
    assert values["environment"]["torch"] == torch.__version__
    assert values["parameters"] == 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert values["best"]["val/accuracy"] >= 0.96
    assert values["test"]["test/accuracy"] >= 0.96
    assert values["last"]["step"] == 400

    lines = metrics(directory)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 401))
    assert all(set(line) == {"step", "epoch", "train/loss", "lr"} for line in lines if "train/loss" in line)
    evaluations = [line for line in lines if "val/loss" in line]
    assert [line["epoch"] for line in evaluations] == list(range(1, 21))
    assert set(lines[-1]) == {"step", "epoch", "test/loss", "test/accuracy"}
    best = max(evaluations, key=lambda line: line["val/accuracy"])
    assert values["best"]["val/accuracy"] == best["val/accuracy"]

    steps = {path.name for path in (directory / "checkpoints").iterdir()}
    assert steps == {f"step-{values['best']['step']:08d}", "step-00000400"}
    assert outcome.out.startswith("run run\n")
    assert outcome.out.rstrip().endswith("run: run")


def test_load_gives_the_best_model_back(trainctl, tmp_path: Path) -> None:
    from trainctl.components.datasets.digits import digits

    assert trainctl(*FAST, "hydra.run.dir=run", "name=mine").code == 0
    (tmp_path / "outputs").mkdir()
    data = digits()
    with torch.no_grad():
        model = package.load("run")
        assert not model.training
        right = (model(data.transform(data.test.inputs)).argmax(1) == data.test.targets).float().mean()
    assert float(right) == pytest.approx(record(tmp_path / "run")["test"]["test/accuracy"])
    last = package.load(tmp_path / "run", which="last")
    assert last.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(ConfigError, match="no such directory"):
        package.load("nothing")


def test_what_is_ignored_or_done_twice_is_said(trainctl, tmp_path: Path) -> None:
    short = ("threads=1", "model.hidden=[16]", "train.max_steps=2", "hydra.run.dir=run")
    twice = ("dataset.sampling=balanced", "loss.class_weights=balanced", "lr=1e-3", "optim.lr=1e-2")
    outcome = trainctl("strategy=fsdp", *twice, *short)
    assert outcome.code == 0, outcome.err
    for said in (
        "strategy=fsdp does nothing on one device",
        "rare classes count twice",
        "lr: given 2 times, the last one counts",
    ):
        assert said in outcome.out
    (tmp_path / "run/run.json").write_text(
        (tmp_path / "run/run.json").read_text().replace('"status": "done"', '"status": "interrupted"')
    )
    again = trainctl("resume", "run", "train.max_steps=3", "train.max_steps=4")
    assert again.code == 0, again.err
    assert "train.max_steps: given 2 times" in again.out
    once = trainctl(*twice[:1], *twice[3:], *short[:-1])
    assert "twice" not in once.out
    assert "given" not in once.out


def test_early_stopping_says_so(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("threads=1", "train.patience=2", "lr=0.03", "epochs=50", "hydra.run.dir=run")
    assert outcome.code == 0
    assert "stopped early: no better val/accuracy for 2 evaluations" in outcome.out
    assert "no better val/accuracy" in record(tmp_path / "run")["reason"]
    assert record(tmp_path / "run")["last"]["epoch"] < 50


def test_a_fault_of_the_users_own_code_is_recorded_as_it_is_told(trainctl, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\nfrom trainctl.registry import MODELS\n\n@MODELS.register('own')\n"
        "class Own(nn.Linear):\n    calls = 0\n    def __init__(self):\n        super().__init__(1, 1)\n"
        "    def forward(self, inputs):\n        self.calls += self.training\n"
        "        if self.calls > 3:\n            raise ValueError('call 4')\n"
        "        return super().forward(inputs)\n"
    )
    words = ("plugins=[./own.py]", "model.name=own", "dataset=thermometer", "loss=mse", "hydra.run.dir=run")
    outcome = trainctl("threads=1", *words)
    values = record(tmp_path / "run")
    assert (outcome.code, values["exit_code"], values["status"]) == (2, 2, "failed")
    assert "own.py line 12: ValueError: call 4" in outcome.err
    assert "own.py line 12: ValueError: call 4" in values["reason"]
    assert "Traceback" in (tmp_path / "run/train.log").read_text()


def test_the_header_shows_the_learning_rate_that_was_asked_for(trainctl) -> None:
    for words in (("scheduler=one_cycle", "optim=sgd"), ("scheduler=cosine", "scheduler.warmup=10")):
        assert " lr 0.1, " in trainctl(*FAST, *words, "lr=0.1").out


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "words",
    [
        ("train.precision=bf16",),
        ("deterministic=true",),
        ("optim=sgd_momentum", "scheduler=cosine", "scheduler.warmup=5"),
        ("model.normalization=batch", "model.activation=gelu", "model.hidden=[32]"),
        ("dataset=synthetic", "dataset.shape=[3,4]", "model.hidden=[]"),
        ("display.mode=rich",),
    ],
    ids=" ".join,
)
def test_every_choice_trains(trainctl, tmp_path: Path, words: tuple[str, ...]) -> None:
    outcome = trainctl("train.max_steps=22", "threads=1", "hydra.run.dir=run", *words)
    assert outcome.code == 0, outcome.err
    losses = [line["train/loss"] for line in metrics(tmp_path / "run") if "train/loss" in line]
    assert len(losses) == 22
    assert all(math.isfinite(loss) for loss in losses)


def test_a_line_every_step_and_none_repeated(trainctl) -> None:
    outcome = trainctl("train.max_steps=22", "threads=1", "display.every=1", "display.mode=plain")
    steps = [line for line in outcome.out.splitlines() if ", Step [" in line and line.startswith("Epoch [")]
    assert len(steps) == 22
    assert len(set(steps)) == 22
    assert steps[0].startswith("Epoch [1/2], Step [1/20], Loss: ")
    assert steps[-1].startswith("Epoch [2/2], Step [2/20], Loss: ")


def test_no_validation_is_said_and_the_last_weights_are_tested(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("train.max_steps=5", "threads=1", "dataset.val=0", "hydra.run.dir=run")
    assert "no val" in outcome.out
    assert record(tmp_path / "run")["best"] is None
    assert record(tmp_path / "run")["test"]["step"] == 5


@pytest.mark.slow
def test_real_mnist_reaches_the_accuracy_its_recipe_states(
    trainctl, mnist_root: Path, tmp_path: Path
) -> None:
    outcome = trainctl("experiment=mnist_mlp", f"dataset.root={mnist_root}", "threads=1", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert record(tmp_path / "run")["test"]["test/accuracy"] >= 0.975
    assert "860 an epoch" in outcome.out


# ------------------------------------------------------------------ how a run ends when it does not end well

FAILING = [
    (["loss=mse"], 2, ["loss=mse does not fit", "(N, 10)", "int64", "use loss=cross_entropy"]),
    (
        ["dataset=synthetic", "dataset.task=regression", "loss=cross_entropy"],
        2,
        ["loss=cross_entropy does not fit", "use loss=mse"],
    ),
    (["dataset.val=2000"], 2, ["dataset.val=2000"]),
    (["dataset.val=0", "train.patience=2"], 2, ["train.patience=2 needs validation data"]),
    (["dataset=mnist"], 2, ["not found in", "data/MNIST/raw", "dataset.download=true"]),
    (["train.monitor=val/f1"], 2, ["train.monitor=val/f1", "val/accuracy"]),
    (["model=sequential", "model.layers=[Linaer]"], 2, ["model.layers[0]=Linaer", "did you mean Linear?"]),
    (["lr=1e30", "optim=sgd"], 6, ["the loss is", "at step", "learning rate 1e+30"]),
]


@pytest.mark.quick(3)
@pytest.mark.parametrize(
    ("words", "code", "messages"), FAILING, ids=[" ".join(words) for words, _, _ in FAILING]
)
def test_a_run_that_cannot_go_on_says_why(
    trainctl, words: list[str], code: int, messages: list[str], tmp_path: Path
) -> None:
    outcome = trainctl(*words, "threads=1", "hydra.run.dir=run")
    assert outcome.code == code
    for message in messages:
        assert message in outcome.err
    assert "Traceback" not in outcome.err
    values = record(tmp_path / "run")
    assert (values["status"], values["exit_code"]) == ("failed", code)
    assert values["reason"]


def test_a_named_directory_that_holds_a_run_is_refused(trainctl, tmp_path: Path) -> None:
    assert trainctl(*FAST, "hydra.run.dir=mine").code == 0
    before = (tmp_path / "mine/run.json").read_bytes()
    outcome = trainctl(*FAST, "hydra.run.dir=mine")
    assert outcome.code == 7
    assert "already holds a run" in outcome.err
    assert (tmp_path / "mine/run.json").read_bytes() == before


@pytest.mark.slow
def test_a_full_disk_ends_with_exit_5_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    # A limit on the size of files stands in for the full disk: metrics.jsonl grows until the kernel refuses.
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))

    words = [str(PROGRAM), "threads=1", "epochs=400", "hydra.run.dir=run", "display.mode=none"]
    done = subprocess.run(
        words, cwd=tmp_path, preexec_fn=limited, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 5, done.stderr
    assert "writing the run failed" in done.stderr
    assert "Traceback" not in done.stderr
    package.load(tmp_path / "run", which="last")


def test_no_permission_ends_with_exit_5(trainctl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = trainctl(*FAST, "hydra.run.dir=file/run")
    assert outcome.code == 5
    assert "hydra.run.dir=DIR" in outcome.err


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
    ],
)
@pytest.mark.slow
def test_a_signal_finishes_the_step_saves_and_stops(
    number: signal.Signals, code: int, status: str, tmp_path: Path
) -> None:
    process = start("threads=1", "epochs=100000", "hydra.run.dir=run", cwd=tmp_path)
    checkpoints = tmp_path / "run/checkpoints"
    wait_for(lambda: list(checkpoints.glob("step-*")))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "the run was saved" in err
    assert "Traceback" not in err
    values = record(tmp_path / "run")
    assert (values["status"], values["exit_code"]) == (status, code)
    saved = max(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))
    logged = [line["step"] for line in metrics(tmp_path / "run") if "train/loss" in line]
    assert logged == list(range(1, saved + 1))
    package.load(tmp_path / "run", which="last")


def test_a_default_run_never_imports_the_compiler(tmp_path: Path) -> None:
    words = ("train.max_steps=3", "scheduler=cosine", "train.clip_norm=1.0", "train.precision=bf16")
    assert not {"torch._dynamo", "sympy", "torchvision"} & modules_after(*words, cwd=tmp_path)


@pytest.mark.slow
def test_a_pipe_whose_reader_left_does_not_stop_the_run(tmp_path: Path) -> None:
    process = start("threads=1", "epochs=40", "hydra.run.dir=run", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    process.stderr.close()
    assert record(tmp_path / "run")["status"] == "done"


def test_the_stored_config_keeps_secrets_as_references(trainctl, tmp_path: Path) -> None:
    os.environ["TRAINCTL_TEST_NAME"] = "hush"
    try:
        assert trainctl(*FAST, "name='${oc.env:TRAINCTL_TEST_NAME}'", "hydra.run.dir=run").code == 0
    finally:
        del os.environ["TRAINCTL_TEST_NAME"]
    assert "hush" not in (tmp_path / "run/config.yaml").read_text()
    assert "${oc.env:TRAINCTL_TEST_NAME}" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "delay", [0.5, pytest.param(0.8, marks=pytest.mark.slow), pytest.param(1.1, marks=pytest.mark.slow)]
)
def test_a_signal_during_start_up_is_not_lost(
    number: signal.Signals, code: int, delay: float, tmp_path: Path
) -> None:
    """Libraries swallow what is raised while they are imported: the run must not go on all the same."""
    process = start("threads=1", "epochs=100000", "hydra.run.dir=run", "display.mode=none", cwd=tmp_path)
    time.sleep(delay)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if process.returncode == -number:
        # A machine so busy that Python itself had not started yet.
        assert not (tmp_path / "run").exists()
        return
    assert process.returncode == code, err
    assert "Traceback" not in err
    if (tmp_path / "run" / "run.json").exists():
        assert record(tmp_path / "run")["status"] in ("interrupted", "terminated")


@pytest.mark.slow
def test_a_vanished_run_directory_is_named(tmp_path: Path) -> None:
    import shutil

    process = start("threads=1", "epochs=100000", "hydra.run.dir=run", "display.mode=none", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("run/checkpoints/step-*")))
    # At once: of a folder that is removed file by file, the run may meet the half.
    (tmp_path / "run").rename(tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone", ignore_errors=True)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 5
    assert "has disappeared" in err


def test_a_latest_that_is_a_folder_stops_no_run(trainctl, tmp_path: Path) -> None:
    put(tmp_path / "outputs" / "latest" / "mine", "")
    outcome = trainctl(*FAST)
    assert outcome.code == 0
    assert "outputs/latest was not set" in outcome.out
    assert not list((tmp_path / "outputs").glob(".latest*"))


def test_weights_that_diverge_unguarded_end_as_not_finite(trainctl) -> None:
    outcome = trainctl("guard=none", "optim=sgd", "lr=1e30", "epochs=1", "threads=1")
    assert outcome.code == 6
    assert "NaN or infinite values at step" in outcome.err


def test_a_device_without_enough_memory_is_no_shape_error(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB of which"

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError(said)

    monkeypatch.setattr(torch.nn.Linear, "forward", full)
    outcome = trainctl("device=cpu", "display.mode=none", "hydra.run.dir=run")
    assert outcome.code == 2
    assert "not enough memory: CUDA out of memory. Tried to allocate 2.00 GiB" in outcome.err
    assert "train.micro_batch=N" in outcome.err
    assert record(tmp_path / "run")["exit_code"] == 2
