"""Runs are found and read wherever they lie; what cannot be read is an entry that says why."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trainctl.analysis.discovery import Monitor, gather
from trainctl.config.values import read_values
from trainctl.errors import ConfigError, TrainctlError, UnsafeInputError
from trainctl.runs.directory import claim_sweep
from trainctl.sweep.ledger import Job, Ledger, Row, here

CONFIG = """\
seed: 1
name: null
model: {name: mlp, hidden: [32]}
optim: {name: adam, lr: 1e-3}
train: {epochs: 2, batch_size: 10, accumulate: 1, monitor: auto}
"""


def make(directory: Path, **values: Any) -> Path:
    """A run directory as a run leaves it."""
    directory.mkdir(parents=True)
    record = {
        "version": 1,
        "status": "done",
        "exit_code": 0,
        "reason": None,
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:01:30+00:00",
        "parameters": 99,
        "monitor": {"name": "val/accuracy", "lower_is_better": False},
        "last": {"step": 20, "epoch": 2, "val/loss": 0.5, "val/accuracy": 0.7},
        "best": {"step": 10, "epoch": 1, "val/loss": 0.4, "val/accuracy": 0.8},
        **values,
    }
    (directory / "run.json").write_text(json.dumps(record))
    (directory / "config.yaml").write_text(CONFIG)
    lines = [{"step": step, "epoch": 1, "train/loss": 1.0, "lr": 0.1} for step in range(1, 11)]
    lines.append({"step": 10, "epoch": 1, "val/loss": 0.4, "samples_per_second": 50.0})
    lines += [{"step": step, "epoch": 2, "train/loss": 1.0, "lr": 0.1} for step in range(11, 21)]
    lines.append({"step": 20, "epoch": 2, "val/loss": 0.5, "samples_per_second": 100.0})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def test_a_run_with_everything_that_is_compared(tmp_path: Path) -> None:
    (entry,) = gather([make(tmp_path / "a")])
    assert entry.directory == tmp_path / "a"
    assert (entry.state, entry.exit_code) == ("done", 0)
    assert entry.monitor == Monitor("val/accuracy", False)
    assert entry.value == 0.8
    assert (entry.step, entry.epoch, entry.parameters, entry.seconds) == (20, 2, 99, 90.0)
    # 100 samples at 50 a second, then 100 at 100.
    assert entry.training_seconds == pytest.approx(3.0)
    assert entry.settings["optim.lr"] == 0.001
    assert entry.settings["model.hidden"] == [32]


def test_what_a_run_says_of_its_monitor_counts(tmp_path: Path) -> None:
    make(tmp_path / "a", monitor={"name": "val/loss", "lower_is_better": True})
    (entry,) = gather([tmp_path / "a"])
    assert (entry.monitor, entry.value) == (Monitor("val/loss", True), 0.4)


def test_never_by_the_test_split(tmp_path: Path) -> None:
    make(tmp_path / "a", best={"step": 1, "val/accuracy": 0.1}, test={"step": 1, "test/accuracy": 0.9})
    assert gather([tmp_path / "a"])[0].value == 0.1


def test_a_value_that_was_never_finite_and_one_that_never_was(tmp_path: Path) -> None:
    monitor = {"name": "val/loss", "lower_is_better": True}
    make(tmp_path / "a", best=None, last={"step": 9, "val/loss": "nan"}, monitor=monitor)
    make(tmp_path / "b", best=None, last={"step": 9}, monitor=monitor)
    values = [entry.value for entry in gather([tmp_path])]
    assert values[0] is not None
    assert math.isnan(values[0])
    assert values[1] is None


def test_places_of_every_kind_each_run_once_in_their_order(tmp_path: Path) -> None:
    for name in ("outputs/day/2", "outputs/day/10", "outputs/other", "apart"):
        make(tmp_path / name)
    (tmp_path / "outputs/latest").symlink_to("other")
    make(tmp_path / "outputs/named", name="mine")
    (tmp_path / "outputs/notes").mkdir()
    found = [str(entry.directory.relative_to(tmp_path)) for entry in gather(["apart", "outputs", "last"])]
    assert found == ["apart", "outputs/day/2", "outputs/day/10", "outputs/named", "outputs/other"]
    assert gather(["last"])[0].directory == tmp_path / "outputs/other"
    assert gather(["mine"])[0].name == "mine"


def test_places_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for place, message in (("empty", "no run here"), ("file", "is a file"), ("nowhere", "no such directory")):
        with pytest.raises(ConfigError, match=message):
            gather([place])


DAMAGE: dict[str, Any] = {
    "no JSON": lambda run: (run / "run.json").write_text('{"vers'),
    "another version": lambda run: (run / "run.json").write_text('{"version": 7}'),
    "no status": lambda run: (run / "run.json").write_text('{"version": 1}'),
    "no record": lambda run: (run / "run.json").unlink(),
    "no config": lambda run: (run / "config.yaml").unlink(),
    "no YAML": lambda run: (run / "config.yaml").write_text("a: ["),
    "a list": lambda run: (run / "config.yaml").write_text("- 1"),
    "bytes": lambda run: (run / "config.yaml").write_bytes(b"\xff\x00\xfe"),
    "a number of 400 digits": lambda run: (run / "run.json").write_text(
        json.dumps({"version": 1, "status": "done", "best": {"step": 1, "val/accuracy": 10**400}})
    ),
    "an endless line": lambda run: os.truncate(run / "metrics.jsonl", 2**40),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_among_others_is_an_entry_and_alone_an_error(damage: str, tmp_path: Path) -> None:
    make(tmp_path / "runs/good")
    DAMAGE[damage](make(tmp_path / "runs/bad"))
    entries = {entry.directory.name: entry for entry in gather(["runs"])}
    assert entries["good"].state == "done"
    assert (entries["bad"].state, entries["bad"].exit_code) == ("unreadable", 2)
    assert str(tmp_path / "runs/bad") in entries["bad"].reason
    with pytest.raises(ConfigError):
        gather(["runs/bad"])


def test_what_is_unsafe_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path / "target")
    (run / "config.yaml").write_text("model: {_target_: os.system}")
    with pytest.raises(UnsafeInputError, match="_target_"):
        gather(["target"])
    run = make(tmp_path / "link")
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeInputError, match="is a link"):
        gather(["link"])
    assert [entry.exit_code for entry in gather([make(tmp_path / "good"), "target", "link"])] == [0, 3, 3]


def test_metrics_that_are_damaged_or_absent_do_not_matter_to_the_ranking(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    (run / "metrics.jsonl").write_bytes(os.urandom(1000) + b'"samples_per_second"' + os.urandom(100))
    assert gather([run])[0].value == 0.8
    (run / "metrics.jsonl").unlink()
    assert gather([run])[0].training_seconds is None


class TestRunning:
    def running(self, tmp_path: Path, pid: int, host: str) -> Path:
        run = make(tmp_path / "a", status="running", exit_code=None, ended=None, last=None, best=None)
        (run / ".lock").write_text(f"process {pid} on {host}")
        return run

    def test_how_far_it_is_and_nothing_is_written(self, tmp_path: Path) -> None:
        run = self.running(tmp_path, os.getpid(), platform.node())
        before = {path.name: path.stat().st_mtime_ns for path in [run, *run.iterdir()]}
        (entry,) = gather([run])
        assert (entry.state, entry.step, entry.epoch) == ("running", 20, 2)
        assert {path.name: path.stat().st_mtime_ns for path in [run, *run.iterdir()]} == before

    def test_one_whose_process_has_gone_was_interrupted(self, tmp_path: Path) -> None:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        (entry,) = gather([self.running(tmp_path, ended.pid, platform.node())])
        assert entry.state == "interrupted"
        assert "no process" in entry.reason

    def test_one_whose_lock_names_no_process(self, tmp_path: Path) -> None:
        run = self.running(tmp_path, int("1" * 4000), platform.node())
        assert gather([run])[0].state == "running"  # something was written just now
        (run / ".lock").unlink()
        os.mkfifo(run / ".lock")
        assert gather([make(tmp_path / "b"), run])[1].exit_code == 3

    def test_on_another_machine_it_runs_while_something_is_written(self, tmp_path: Path) -> None:
        run = self.running(tmp_path, 1, "elsewhere")
        assert gather([run])[0].state == "running"
        long_ago = time.time() - 3600
        for path in run.iterdir():
            os.utime(path, (long_ago, long_ago))
        assert gather([run])[0].state == "interrupted"


class TestSweep:
    def sweep(self, tmp_path: Path) -> Ledger:
        ledger = Ledger.begin(claim_sweep(tmp_path / "sweep", named=True))
        ledger.add(
            Job(
                f"key{n}",
                n,
                (f"seed={n}",),
                f"seed={n}",
                {"config.yaml": CONFIG.replace("seed: 1", f"seed: {n}")},
            )
            for n in range(5)
        )
        return ledger

    def test_jobs_in_every_state(self, tmp_path: Path) -> None:
        ledger = self.sweep(tmp_path)
        jobs = ledger.jobs()
        make(tmp_path / "sweep/0")
        ledger.write(jobs[0], Row(state="done", attempts=1, exit_code=0, seconds=1.25))
        ledger.write(jobs[1], here(Row(state="running", attempts=1, step=7, total_steps=20)))
        ledger.write(jobs[2], Row(state="failed", attempts=1, exit_code=6, reason="the loss is nan\nmore"))
        ledger.write(jobs[3], Row(state="interrupted", attempts=1, step=3))
        entries = gather(["sweep"])
        assert [entry.state for entry in entries] == ["done", "running", "failed", "interrupted", "waiting"]
        assert [entry.settings["seed"] for entry in entries] == [1, 1, 2, 3, 4]
        assert [entry.step for entry in entries] == [20, 7, None, 3, None]
        assert entries[0].seconds == 1.25
        assert (entries[2].exit_code, entries[2].reason) == (6, "the loss is nan")

    def test_files_of_a_sweep_that_are_no_files(self, tmp_path: Path) -> None:
        ledger = self.sweep(tmp_path)
        make(tmp_path / "good")
        os.mkfifo(ledger._path(ledger.jobs()[0]))
        (tmp_path / "sweep/ledger/1.json").write_text('{"state": "failed", "reason": 5}')
        entries = gather(["sweep"])
        assert [entry.state for entry in entries] == ["unreadable"] * 2 + ["waiting"] * 3
        assert "ledger/1.json is damaged" in entries[1].reason
        for name in ("jobs.jsonl", "sweep.json"):
            (tmp_path / "sweep" / name).unlink()
            os.mkfifo(tmp_path / "sweep" / name)
            assert [entry.state for entry in gather(["sweep", "good"])] == ["unreadable", "done"]

    def test_a_job_that_was_done_and_whose_run_is_gone(self, tmp_path: Path) -> None:
        ledger = self.sweep(tmp_path)
        ledger.write(ledger.jobs()[3], Row(state="done", attempts=1, exit_code=0))
        entry = gather(["sweep"])[3]
        assert (entry.state, entry.settings["seed"]) == ("unreadable", 3)
        assert "its run directory is missing" in entry.reason

    def test_a_damaged_ledger_does_not_hide_the_runs(self, tmp_path: Path) -> None:
        ledger = self.sweep(tmp_path)
        make(tmp_path / "sweep/0")
        (ledger.directory / "jobs.jsonl").write_text("nonsense\n")
        states = {entry.directory.name: entry.state for entry in gather(["sweep"])}
        assert states == {"sweep": "unreadable", "0": "done"}

    def test_runs_that_the_ledger_does_not_know_are_there_too(self, tmp_path: Path) -> None:
        self.sweep(tmp_path)
        shutil.rmtree(tmp_path / "sweep/ledger")
        make(tmp_path / "sweep/extra")
        assert [entry.directory.name for entry in gather(["sweep"])] == ["0", "1", "2", "3", "4", "extra"]


class TestSettings:
    def test_references_are_followed_and_the_environment_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MY_SECRET", "hunter2")
        path = tmp_path / "config.yaml"
        path.write_text(
            "a: 1e-3\nb: {c: '${a}', d: '${nowhere}', e: '${oc.env:MY_SECRET}', f: '${.e}'}\n"
            "g: '${oc.decode:${oc.env:MY_SECRET}}'\nh: ['${a}', 'http://x']\n"
        )
        assert read_values(path) == {
            "a": 0.001,
            "b.c": 0.001,
            "b.d": "${nowhere}",
            "b.e": "${oc.env:MY_SECRET}",
            "b.f": "${oc.env:MY_SECRET}",
            "g": "${oc.decode:${oc.env:MY_SECRET}}",
            "h": [0.001, "http://x"],
        }

    def test_yaml_that_never_ends_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("a: &a [*a, *a]")
        with pytest.raises(TrainctlError, match="aliases or is nested"):
            read_values(tmp_path / "config.yaml")
