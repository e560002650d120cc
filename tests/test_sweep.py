"""Sweeps: checked before the first job, each job in its own directory, a failure is a row."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.program import run, start

FAST = ("epochs=1", "threads=1", "display.mode=none")


def records(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(sweep.glob("*/run.json"))}


def test_every_combination_in_its_own_directory_and_a_table(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "lr=1e-2,1e-3", "seed=1,2", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 0, outcome.err
    found = records(tmp_path / "sweep")
    assert sorted(found) == ["0", "1", "2", "3"]
    assert all(values["status"] == "done" for values in found.values())
    accuracies = {name: values["best"]["val/accuracy"] for name, values in found.items()}
    assert len(set(accuracies.values())) > 1
    table = outcome.out.splitlines()
    for row in ("lr=0.01 seed=1", "lr=0.01 seed=2", "lr=0.001 seed=1", "lr=0.001 seed=2"):
        assert any(line.startswith(row) and "done" in line for line in table)


def test_a_job_of_a_sweep_equals_the_same_run_alone(trainctl, tmp_path: Path) -> None:
    assert trainctl("-m", "lr=1e-2,1e-3", "hydra.sweep.dir=sweep", *FAST).code == 0
    assert trainctl("lr=1e-3", "hydra.run.dir=alone", *FAST).code == 0
    in_sweep = next((tmp_path / "sweep/1/checkpoints").glob("*/model.safetensors"))
    alone = next((tmp_path / "alone/checkpoints").glob("*/model.safetensors"))
    assert in_sweep.read_bytes() == alone.read_bytes()


def test_a_sweep_over_components_uses_each_ones_own_arguments(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "optim=sgd,adam", "experiment=digits_cosine", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 0, outcome.err
    configs = [(tmp_path / "sweep" / job / "config.yaml").read_text() for job in "01"]
    assert "name: sgd\n  lr: 0.1\n" in configs[0]
    assert "name: adam\n  lr: 0.001\n" in configs[1]


def test_a_failed_job_does_not_stop_the_others_and_the_exit_code_says_so(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "lr=1e30,1e-3,1e-2", "optim=sgd", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 1
    statuses = {name: values["status"] for name, values in records(tmp_path / "sweep").items()}
    assert statuses == {"0": "failed", "1": "done", "2": "done"}
    assert "the loss is" in outcome.err
    row = next(line for line in outcome.out.splitlines() if line.startswith("lr=1e+30 "))
    assert "failed" in row
    assert "the loss is" in row


def test_all_jobs_are_checked_before_the_first_starts(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "lr=1e-3,abc,-1", "model=mlp,mpl", *FAST)
    assert outcome.code == 2
    for message in ("optim.lr=abc", "optim.lr=-1", "model=mpl", "did you mean model=mlp?"):
        assert message in outcome.err
    assert not (tmp_path / "outputs").exists()


def test_a_named_directory_that_holds_a_sweep_is_refused(trainctl) -> None:
    assert trainctl("-m", "seed=1,2", "hydra.sweep.dir=sweep", *FAST).code == 0
    assert trainctl("-m", "seed=1,2", "hydra.sweep.dir=sweep", *FAST).code == 7


def test_paths_sweep_too(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "experiment=mnist_mlp", "dataset.root=a=b,c(1)", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 1
    reasons = [values["reason"] for values in records(tmp_path / "sweep").values()]
    assert ["a=b/MNIST" in reasons[0], "c(1)/MNIST" in reasons[1]] == [True, True]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_sweep_with_the_running_job_saved(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    words = ("-m", "seed=1,2", "epochs=100000", "threads=1", "hydra.sweep.dir=sweep")
    process = start(*words, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("sweep/0/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert [values["exit_code"] for values in records(tmp_path / "sweep").values()] == [code]


def test_from_the_installed_program(tmp_path: Path) -> None:
    done = run("-m", "optim=sgd,adam", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/*/run.json"))) == 2
