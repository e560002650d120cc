"""Sweeps: checked before the first job, each job in its own directory, a failure is a row, carried on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.program import PROGRAM, run, start, wait_for
from trainctl.runs.directory import claim_sweep
from trainctl.sweep.ledger import Ledger, Row
from trainctl.sweep.run import Sweep, split_groups

FAST = ("epochs=1", "threads=1", "display.mode=none")


def records(sweep: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(sweep.glob("*/run.json"))}


def states(sweep: Path) -> list[str]:
    return [entry.row.state for entry in Ledger(sweep).rows()]


def weights(run: Path) -> bytes:
    return max(run.glob("checkpoints/step-*/model.safetensors")).read_bytes()


def test_every_combination_in_its_own_directory_and_a_table(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "lr=1e-2,1e-3", "seed=1,2", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 0, outcome.err
    found = records(tmp_path / "sweep")
    assert sorted(found) == ["0", "1", "2", "3"]
    assert all(values["status"] == "done" for values in found.values())
    accuracies = {name: values["best"]["val/accuracy"] for name, values in found.items()}
    assert len(set(accuracies.values())) > 1
    assert states(tmp_path / "sweep") == ["done"] * 4
    # Ranked: the larger learning rate is far ahead after one epoch.
    assert outcome.out.index("0.01") < outcome.out.rindex("0.001")
    assert not list(tmp_path.glob("sweep/worker-*.log"))
    # Pictures only where they are asked for, and the run says so.
    assert not list(tmp_path.glob("sweep/*/*.svg"))
    assert "pictures: false" in (tmp_path / "sweep/0/config.yaml").read_text()


@pytest.mark.slow
def test_each_launcher_gives_the_weights_of_the_same_run_alone(trainctl, tmp_path: Path) -> None:
    words = ("lr=1e-2,1e-3", *FAST)
    for name in ("parallel", "basic"):
        assert trainctl("-m", *words, f"hydra/launcher={name}", f"hydra.sweep.dir={name}").code == 0
        assert states(tmp_path / name) == ["done", "done"]
    assert trainctl("lr=1e-3", "hydra.run.dir=alone", *FAST).code == 0
    alone = weights(tmp_path / "alone")
    assert weights(tmp_path / "parallel/1") == alone
    assert weights(tmp_path / "basic/1") == alone


@pytest.mark.slow
def test_a_sweep_over_components_uses_each_ones_own_arguments(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "optim=sgd,adam", "experiment=digits_cosine", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 0, outcome.err
    configs = [(tmp_path / "sweep" / job / "config.yaml").read_text() for job in "01"]
    assert "name: sgd\n  lr: 0.1\n" in configs[0]
    assert "name: adam\n  lr: 0.001\n" in configs[1]


@pytest.mark.slow
def test_a_failed_job_is_a_row_and_is_tried_again(trainctl, tmp_path: Path) -> None:
    words = ("-m", "lr=1e30,1e-3,1e-2", "optim=sgd", "hydra.sweep.dir=sweep", *FAST)
    outcome = trainctl(*words)
    assert outcome.code == 1
    statuses = {name: values["status"] for name, values in records(tmp_path / "sweep").items()}
    assert statuses == {"0": "failed", "1": "done", "2": "done"}
    assert "job 0 failed: lr=1e+30 (the loss is" in outcome.out
    before = records(tmp_path / "sweep")
    for again in (words, ("resume", "sweep")):
        outcome = trainctl(*again)
        assert outcome.code == 1
        assert "(2 done already, 1 to try again)" in outcome.out
        assert "job 0 failed: lr=1e+30 (the loss is" in outcome.out
    after = records(tmp_path / "sweep")
    assert [after[name] for name in "12"] == [before[name] for name in "12"]
    # What the earlier tries left is set aside, not deleted.
    assert sorted(path.name for path in tmp_path.glob("sweep/0*")) == ["0", "0.attempt-1", "0.attempt-2"]
    # A job that was tried three times is one row.
    assert trainctl("compare", "sweep", "--json=table.json").code == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert [len(group["rows"]) for group in table["groups"]] == [2]
    assert [other["directory"] for other in table["others"]] == [str(tmp_path / "sweep" / "0")]


@pytest.mark.parametrize("launcher", ["parallel", "basic"])
@pytest.mark.slow
def test_the_first_failure_can_end_it(trainctl, tmp_path: Path, launcher: str) -> None:
    words = ("optim=sgd", f"hydra/launcher={launcher}", "sweep.jobs=1", "sweep.fail_fast=true", *FAST)
    for _ in range(2):  # what failed before the command does not count
        assert trainctl("-m", "lr=1e-3,1e30,1e-2", *words, "hydra.sweep.dir=sweep").code == 1
        assert states(tmp_path / "sweep") == ["done", "failed", "waiting"]


@pytest.mark.slow
def test_a_sweep_is_carried_on_by_its_launcher(trainctl, tmp_path: Path, monkeypatch) -> None:
    words = ("optim=sgd", "hydra/launcher=basic", "hydra.sweep.dir=sweep")
    assert trainctl("-m", "lr=1e-3,1e30", *words, *FAST).code == 1
    outcome = trainctl("resume", "sweep")
    assert outcome.code == 1
    assert "job 2/2: lr=1e+30" in outcome.out
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    outcome = trainctl("resume", str(tmp_path / "sweep"))
    assert outcome.code == 2
    assert f"cd {tmp_path}" in outcome.err


@pytest.mark.slow
def test_what_another_machine_trains_is_left_to_it(trainctl, tmp_path: Path) -> None:
    words = ("-m", "seed=1,2", "hydra.sweep.dir=sweep", *FAST)
    assert trainctl(*words).code == 0
    ledger = Ledger(tmp_path / "sweep")
    job = ledger.jobs()[1]
    row = Row(state="running", attempts=1, host="another", pid=1, beat=time.time())
    ledger.write(job, row)
    outcome = trainctl(*words)
    assert outcome.code == 1
    assert "(1 done already, 1 still running on other machines)" in outcome.out
    assert ledger.stored(job) == row


@pytest.mark.slow
def test_init_from_last_is_the_run_before_the_sweep(trainctl, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    assert trainctl("name=first", *FAST).code == 0
    first = (tmp_path / "outputs" / "latest").resolve()
    for number, name in enumerate(("last", "first")):
        outcome = trainctl("-m", "seed=1,2", f"init_from={name}", f"hydra.sweep.dir=sweep{number}", *FAST)
        assert outcome.code == 0, outcome.out + outcome.err
        # The sweep is the last one now; the first run has to be what it was.
        assert (tmp_path / "outputs" / "latest").resolve() == tmp_path / f"sweep{number}"
        assert f"init_from: {first}" in (tmp_path / f"sweep{number}" / "1" / "config.yaml").read_text()
        (tmp_path / "outputs" / "latest").unlink()
        (tmp_path / "outputs" / "latest").symlink_to(first)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "local.yaml").write_text("# @package _global_\ninit_from: last\n")
    outcome = trainctl("-m", "seed=1,2", *FAST)
    assert outcome.code == 2
    assert "init_from=last is ambiguous in a sweep" in outcome.err


def test_all_jobs_are_checked_before_the_first_starts(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "lr=1e-3,abc,-1", "model=mlp,mpl", *FAST)
    assert outcome.code == 2
    for message in ("optim.lr=abc", "optim.lr=-1", "model=mpl", "did you mean model=mlp?"):
        assert message in outcome.err
    assert not (tmp_path / "outputs").exists()


def test_jobs_with_the_same_settings_run_once(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "lr=1e-3,0.001,1e-2", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 0
    assert "left out: lr=0.001" in outcome.out
    assert len(states(tmp_path / "sweep")) == 2


@pytest.mark.parametrize("searches", [False, True])
def test_a_sweep_that_was_killed_right_after_it_took_its_directory(
    trainctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searches: bool
) -> None:
    directory = claim_sweep(tmp_path / "sweep", named=True)
    resumed = trainctl("resume", "sweep")
    assert (resumed.code, "start it again: with the command" in resumed.err) == (2, True)
    monkeypatch.setattr(Sweep, "run", lambda sweep, *_: 0)
    words = ("lr=interval(0.1,1)", "hydra/sweeper=optuna") if searches else ("seed=1,2",)
    outcome = trainctl("-m", *words, "hydra.sweep.dir=sweep")
    assert outcome.code == 0, outcome.err
    assert (directory / "ledger").is_dir()
    assert len(Ledger(directory).jobs()) == (0 if searches else 2)


@pytest.mark.slow
def test_the_same_sweep_again_does_nothing_and_a_larger_one_only_what_is_new(
    trainctl, tmp_path: Path
) -> None:
    assert trainctl("-m", "seed=1,2", "hydra.sweep.dir=sweep", *FAST).code == 0
    before = records(tmp_path / "sweep")
    outcome = trainctl("-m", "seed=1,2", "hydra.sweep.dir=sweep", "checkpoint.keep_last=2", *FAST)
    assert (outcome.code, records(tmp_path / "sweep")) == (0, before)
    assert "2 done already" in outcome.out
    assert trainctl("-m", "seed=2,3", "hydra.sweep.dir=sweep", *FAST).code == 0
    after = records(tmp_path / "sweep")
    assert (sorted(after), after["0"], after["1"]) == (["0", "1", "2"], before["0"], before["1"])
    finished = trainctl("resume", "sweep")
    assert finished.code == 0
    assert "this sweep is finished" in finished.out


@pytest.mark.slow
def test_jobs_are_not_ranked_across_data_that_has_changed(trainctl, tmp_path: Path) -> None:
    """What a failed job saw does not bind the others."""
    rows = [f"{number % 7},{number % 5},{'ab'[number % 7 > 3]}" for number in range(60)]
    table = tmp_path / "data.csv"
    table.write_text("\n".join(["x,y,label", *rows]))
    words = ("dataset=csv", "dataset.path=data.csv", "dataset.target=label", "hydra/launcher=basic", *FAST)
    assert trainctl("-m", "lr=1e-2", *words, "hydra.sweep.dir=sweep").code == 0
    stored = table.read_text()
    table.write_text("\n".join(["y,x,label", *rows]))  # two columns exchanged
    outcome = trainctl("-m", "lr=1e-2,1e-3", *words, "hydra.sweep.dir=sweep")
    assert outcome.code == 1
    assert "dataset=csv: not the data that job 0 of this sweep was trained on" in outcome.out + outcome.err
    (row,) = (entry.row for entry in Ledger(tmp_path / "sweep").rows() if entry.job.number == 1)
    assert (row.state, row.exit_code) == ("failed", 2)
    assert "other columns (y, x instead of x, y)" in str(row.reason)
    table.write_text(stored)
    assert trainctl("resume", "sweep").code == 0
    assert states(tmp_path / "sweep") == ["done", "done"]


@pytest.mark.slow
def test_a_directory_with_another_sweep_or_something_else_is_refused(trainctl, tmp_path: Path) -> None:
    assert trainctl("-m", "seed=1,2", "hydra.sweep.dir=sweep", *FAST).code == 0
    outcome = trainctl("-m", "seed=3,4", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 7
    assert "holds another sweep" in outcome.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").write_text("")
    assert trainctl("-m", "seed=3,4", "hydra.sweep.dir=mine", *FAST).code == 7


@pytest.mark.slow
def test_paths_sweep_too(trainctl, tmp_path: Path) -> None:
    outcome = trainctl("-m", "experiment=mnist_mlp", "dataset.root=a=b,c(1)", "hydra.sweep.dir=sweep", *FAST)
    assert outcome.code == 1
    reasons = [entry.row.reason or "" for entry in Ledger(tmp_path / "sweep").rows()]
    assert ["a=b/MNIST" in reasons[0], "c(1)/MNIST" in reasons[1]] == [True, True]


@pytest.mark.slow
def test_a_plugin_that_has_changed_is_not_imported(trainctl, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from torch import nn\n"
        "from trainctl.registry import MODELS\n\n"
        "@MODELS.register('mine')\n"
        "def mine(input_shape: tuple[int, ...], output_size: int, width: int = 4) -> nn.Module:\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
    )
    words = ("-m", "plugins=./mine.py", "model.name=mine", "model.width=4,8", "hydra.sweep.dir=sweep", *FAST)
    outcome = trainctl(*words)
    assert outcome.code == 0, outcome.out + outcome.err
    shutil.rmtree(tmp_path / "sweep/1")
    (tmp_path / "sweep/ledger/1.json").unlink()
    plugin.write_text(plugin.read_text() + "open('touched', 'w')\n")
    outcome = trainctl("resume", "sweep")
    assert outcome.code == 3
    assert "--trust-plugins" in outcome.err
    assert not (tmp_path / "touched").exists()
    assert trainctl("resume", "sweep", "--trust-plugins").code == 0
    assert states(tmp_path / "sweep") == ["done", "done"]


def begin(*words: str, cwd: Path, jobs: int = 1, own_group: bool = False) -> subprocess.Popen[str]:
    """Start a sweep and wait until each of its first ``jobs`` jobs has saved a checkpoint."""
    process = start("-m", *words, "threads=1", "hydra.sweep.dir=sweep", cwd=cwd, own_group=own_group)
    wait_for(lambda: len({path.parent for path in cwd.glob("sweep/*/checkpoints/step-*")}) >= jobs)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_a_signal_ends_the_sweep_with_the_running_jobs_saved(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = begin("seed=1,2,3", "epochs=100000", "sweep.jobs=2", cwd=tmp_path, jobs=2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert [values["exit_code"] for values in records(tmp_path / "sweep").values()] == [code, code]
    assert states(tmp_path / "sweep") == ["interrupted", "interrupted", "waiting"]
    assert not processes_in(tmp_path)


def processes_in(folder: Path) -> list[int]:
    """Processes whose current folder this is, but for the test's own."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and process.name != str(os.getpid()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("fail_fast", [False, True])
@pytest.mark.slow
def test_a_worker_that_is_killed_is_a_failed_job(tmp_path: Path, fail_fast: bool) -> None:
    words = ("seed=1", "epochs=100000,1", "sweep.jobs=1", f"sweep.fail_fast={str(fail_fast).lower()}")
    process = begin(*words, cwd=tmp_path)
    pid = Ledger(tmp_path / "sweep").rows()[0].row.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert states(tmp_path / "sweep") == ["failed", "waiting" if fail_fast else "done"]
    reason = Ledger(tmp_path / "sweep").rows()[0].row.reason
    assert reason == "its process was killed by signal 9 (out of memory?)"


SLOW_MODEL = """
import time
from pathlib import Path
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("slow")
def slow(input_shape: tuple[int, ...], output_size: int):
    Path("building").touch()
    time.sleep(100)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.slow
def test_a_job_that_is_still_being_built_is_interrupted_too(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_MODEL)
    words = ("plugins=./slow.py", "model.name=slow", "~model.hidden", "seed=1,2", "sweep.jobs=1")
    process = start("-m", *words, "threads=1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    wait_for((tmp_path / "building").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert states(tmp_path / "sweep") == ["interrupted", "waiting"]
    assert Ledger(tmp_path / "sweep").rows()[0].row.reason == "interrupted"


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_time_to_save(tmp_path: Path) -> None:
    words = ("seed=1,2,3", "epochs=100000", "sweep.jobs=2")
    process = begin(*words, cwd=tmp_path, jobs=2, own_group=True)
    os.killpg(process.pid, signal.SIGTERM)
    # As all processes of a job are told to stop, those outside of the group, too.
    for each in processes_in(tmp_path):
        os.kill(each, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert [values["exit_code"] for values in records(tmp_path / "sweep").values()] == [143, 143]
    assert states(tmp_path / "sweep") == ["interrupted", "interrupted", "waiting"]
    reasons = [entry.row.reason or "" for entry in Ledger(tmp_path / "sweep").rows()]
    assert all("the run was saved" in reason for reason in reasons[:2]), reasons


@pytest.mark.slow
def test_two_processes_do_not_run_one_sweep(trainctl, tmp_path: Path) -> None:
    process = begin("seed=1,2", "epochs=100000", cwd=tmp_path)
    jobs = (tmp_path / "sweep" / "jobs.jsonl").read_bytes()
    for words in (
        ("resume", "sweep"),
        ("-m", "seed=1,2,3", "epochs=100000", "threads=1", "hydra.sweep.dir=sweep"),
    ):
        outcome = trainctl(*words)
        assert outcome.code == 7
        assert "another process is running this sweep" in outcome.err
    assert (tmp_path / "sweep" / "jobs.jsonl").read_bytes() == jobs
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


TRAINING = ("optim=sgd", "epochs=12", "threads=1", "train.batch_size=32")


def kill_and_carry_on(folder: Path, kills: int, chance: random.Random) -> None:
    """Kill a sweep ``kills`` times, the process alone or its whole group, then let it end."""
    words = ["-m", "lr=1e-2,1e30", "seed=1,2,3,4,5,6", *TRAINING, "hydra.sweep.dir=sweep"]
    while kills:
        process = subprocess.Popen(
            [str(PROGRAM), *words],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(1.0, 4.0))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL) if chance.random() < 0.5 else process.kill()
        process.wait()
        kills -= 1
        if (folder / "sweep/jobs.jsonl").exists():
            words = ["resume", "sweep"]
    assert run(*words, cwd=folder).returncode == 1


def check_killed_sweep(folder: Path, alone: Path) -> None:
    rows = Ledger(folder / "sweep").rows()
    assert len(rows) == 12
    for entry in rows:
        bad = "lr=1e+30" in entry.job.label or "lr=1e30" in entry.job.label
        assert entry.row.state == ("failed" if bad else "done"), entry
        if bad:
            assert "the loss is" in (entry.row.reason or "")
            continue
        lines = [json.loads(line) for line in (entry.directory / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if "train/loss" in line]
        assert steps == list(range(1, len(steps) + 1))
        seed = next(word for word in entry.job.words if word.startswith("seed="))
        reference = alone / seed
        if not reference.exists():
            done = run(*TRAINING, "lr=1e-2", seed, f"hydra.run.dir={reference}", cwd=alone)
            assert done.returncode == 0, done.stderr
        assert weights(entry.directory) == weights(reference)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_killed_ten_times_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    kill_and_carry_on(tmp_path, 10, random.Random(3))
    check_killed_sweep(tmp_path, tmp_path / "alone")


@pytest.mark.slow
def test_from_the_installed_program(tmp_path: Path) -> None:
    done = run("-m", "optim=sgd,adam", *FAST, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/sweeps/*/*/*/run.json"))) == 2
    assert (tmp_path / "outputs/latest").resolve() == next(tmp_path.glob("outputs/sweeps/*/*"))


def test_a_group_is_cut_for_the_workers_as_long_as_it_is_worth_it() -> None:
    twelve, many = list(range(12)), list(range(32))
    assert split_groups([twelve], 12) == [twelve]
    assert split_groups([many], 2) == [many[::2], many[1::2]]
    assert [len(piece) for piece in split_groups([many, [40]], 12)] == [8, 8, 8, 8, 1]
    assert split_groups([[1], [2]], 4) == [[1], [2]]
