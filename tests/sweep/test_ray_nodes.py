"""Sweeps on a Ray cluster: nodes with process tables and host names of their own, which die at once."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.program import SLOW_PLUGIN, run, start, wait_for
from tests.helpers.runs import metrics, record, saved, weights
from trainctl.sweep.ledger import Ledger, Row

RAY = Path(sys.executable).with_name("ray")
ON_RAY = ("hydra/launcher=ray", "hydra.sweep.dir=s")
FAST = ("threads=1", "display.mode=plain")
LONG = ("epochs=80", "batch_size=320", "threads=1", "checkpoint.every_steps=10", "display.mode=plain")

Start = Callable[..., subprocess.Popen[bytes]]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs ray"),
    pytest.mark.skipif(
        shutil.which("unshare") is None or os.geteuid() != 0, reason="needs unshare, and to be root"
    ),
]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """A cluster whose head trains nothing, and a function that adds a node: it returns the process that is
    the node, and that takes all others of it along when it is killed."""
    address = f"127.0.0.1:{_free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # With authentication, and a token of its own: the user's has no part in this.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ports = ("--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=80000000", "--block")
    started: list[subprocess.Popen[bytes]] = []
    # Sockets lie there, whose names may be short only.
    folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)

    def begin(name: str, script: str) -> subprocess.Popen[bytes]:
        own = ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--uts"]
        with Path(folder.name, f"{name}.log").open("wb") as log:
            script = f"hostname {name}; {script}"
            started.append(subprocess.Popen([*own, "sh", "-c", script], stdout=log, stderr=log, cwd=tmp_path))
        return started[-1]

    def node(name: str, private: bool = False, before: str = "") -> subprocess.Popen[bytes]:
        hidden = f"mount -t tmpfs none {tmp_path};" if private else before
        command = [f"--address={address}", "--num-cpus=1", *ports]
        process = begin(name, f"{hidden} exec {RAY} start {' '.join(command)}")
        wait_for(lambda: b"Ray runtime started" in Path(folder.name, f"{name}.log").read_bytes())
        return process

    head = ["--head", f"--port={address.partition(':')[2]}", f"--temp-dir={folder.name}", "--num-cpus=0"]
    begin("head", f"exec {RAY} start {' '.join([*head, '--include-dashboard=false', *ports])}")

    def is_up() -> bool:
        command = [str(RAY), "status", f"--address={address}"]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0

    with folder:
        try:
            wait_for(is_up, 60)
            assert is_up(), Path(folder.name, "head.log").read_text()
            yield node
        finally:
            for process in started:
                process.kill()
                process.wait()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Path]:
    """A plugin that makes steps slow, where every node sees it."""
    path = tmp_path.with_name(f"{tmp_path.name}.py")
    path.write_text(SLOW_PLUGIN)
    yield path
    path.unlink()


def rows(sweep: Path) -> list[Row]:
    ledger = Ledger(sweep)
    return [ledger.stored(job) for job in ledger.jobs()]


def test_two_nodes_reach_what_this_machine_does_and_a_failure_is_a_row(
    cluster: Start, tmp_path: Path
) -> None:
    cluster("node-1"), cluster("node-2")
    words = ("-m", "optim=sgd", "lr=1e-2,1e30,1e-1", "seed=1,2,3", *FAST, "epochs=30")
    done = run(*words, *ON_RAY, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = rows(tmp_path / "s")
    assert [row.state for row in found] == ["done"] * 3 + ["failed"] * 3 + ["done"] * 3
    assert [row.exit_code for row in found] == [0] * 3 + [6] * 3 + [0] * 3
    assert {row.host for row in found} == {"node-1", "node-2"}
    assert "job 3 failed: lr=1e+30 seed=1 (the loss is" in done.stdout
    assert run(*words, "hydra.sweep.dir=here", cwd=tmp_path).returncode == 1
    for number in (0, 1, 2, 6, 7, 8):
        assert weights(tmp_path / f"s/{number}") == weights(tmp_path / f"here/{number}")
        assert metrics(tmp_path / f"s/{number}") == metrics(tmp_path / f"here/{number}")
    again = run(*words, *ON_RAY, "sweep.fail_fast=true", cwd=tmp_path)
    assert (again.returncode, "(6 done already, 3 to try again)" in again.stdout) == (1, True)
    assert [row.attempts for row in rows(tmp_path / "s")][:3] == [1] * 3
    assert sorted(path.name for path in (tmp_path / "s").glob("ledger/.*")) == []


@pytest.mark.parametrize("private", [False, True], ids=["shared folder", "private folders"])
def test_the_jobs_of_a_node_that_dies_are_done_by_the_others(
    cluster: Start, slow: Path, tmp_path: Path, private: bool
) -> None:
    first = cluster("node-1", private)
    cluster("node-2", private)
    words = ("-m", "optim=sgd", "lr=1e-3,1e-2", "seed=1,2", f"plugins=[{slow}]", *LONG)
    process = start(*words, *ON_RAY, cwd=tmp_path)

    def lost() -> list[int]:
        found = enumerate(rows(tmp_path / "s")) if (tmp_path / "s/jobs.jsonl").exists() else ()
        return [
            n for n, row in found if (row.state, row.host) == ("running", "node-1") and (row.step or 0) > 20
        ]

    wait_for(lost, 240)
    (number,) = lost()
    first.kill()
    before = saved(tmp_path / f"s/{number}") if not private else []
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    assert [row.state for row in rows(tmp_path / "s")] == ["done"] * 4
    assert [row.attempts for row in rows(tmp_path / "s")] == [1 + (n == number) for n in range(4)]
    how = "start again, because it shares no folder" if private else "go on from their newest checkpoints"
    assert f"lost a worker on node node-1: job {number} {how}" in out
    resumed = record(tmp_path / f"s/{number}").get("resumed")
    assert resumed is None if private else resumed["step"] >= max(before) > 0
    assert len(list((tmp_path / "s").glob(".incoming*"))) == 0
    assert run(*words, "hydra.sweep.dir=here", cwd=tmp_path).returncode == 0
    for each in range(4):
        assert metrics(tmp_path / f"s/{each}") == metrics(tmp_path / f"here/{each}")
        assert weights(tmp_path / f"s/{each}") == weights(tmp_path / f"here/{each}")


@pytest.mark.parametrize("private", [False, True], ids=["shared folder", "private folders"])
def test_interrupted_jobs_are_saved_and_resumed_on_other_nodes(
    cluster: Start, slow: Path, tmp_path: Path, private: bool
) -> None:
    """With a plugin, which nodes may import because the sweep may."""
    first = cluster("node-1", private)
    words = ("-m", "optim=sgd", "seed=1,2,3", f"plugins=[{slow}]", *LONG)
    process = start(*words, *ON_RAY, cwd=tmp_path)

    def running() -> bool:
        there = (tmp_path / "s/jobs.jsonl").exists()
        return there and any(row.state == "running" and (row.step or 0) > 20 for row in rows(tmp_path / "s"))

    wait_for(running, 240)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    stopped = [row for row in rows(tmp_path / "s") if row.state == "interrupted"]
    assert [row.exit_code for row in stopped] == [130]
    (number,) = [n for n, row in enumerate(rows(tmp_path / "s")) if row.state == "interrupted"]
    steps = saved(tmp_path / f"s/{number}")
    assert steps[-1] > 20
    first.kill()
    cluster("node-2", private)
    done = run("resume", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row.state for row in rows(tmp_path / "s")] == ["done"] * 3
    assert record(tmp_path / f"s/{number}")["resumed"]["step"] == steps[-1]
    assert rows(tmp_path / "s")[number].host == "node-2"
    taken = [line["step"] for line in metrics(tmp_path / f"s/{number}") if "lr" in line]
    assert taken == list(range(1, len(taken) + 1))
    assert "imported" in (tmp_path / "s/worker-0.log").read_text()


def test_jobs_are_saved_when_the_sweep_itself_is_killed(cluster: Start, slow: Path, tmp_path: Path) -> None:
    cluster("node-1")
    process = start("-m", "optim=sgd", "seed=1,2", f"plugins=[{slow}]", *LONG, *ON_RAY, cwd=tmp_path)

    def running() -> bool:
        there = (tmp_path / "s/jobs.jsonl").exists()
        return there and (rows(tmp_path / "s")[0].step or 0) > 20

    wait_for(running, 240)
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: rows(tmp_path / "s")[0].state == "interrupted", 60)
    assert [row.state for row in rows(tmp_path / "s")] == ["interrupted", "waiting"]
    last = saved(tmp_path / "s/0")[-1]
    done = run("resume", "s", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row.attempts for row in rows(tmp_path / "s")] == [2, 1]
    assert record(tmp_path / "s/0")["resumed"]["step"] == last > 20


def test_a_node_with_another_plugin_file_is_refused(cluster: Start, tmp_path: Path) -> None:
    for name, said in (("mine.py", "one"), ("theirs.py", "another")):
        (tmp_path / name).write_text(f"print({said!r})\n")
    cluster("node-1", before=f"mount --bind {tmp_path}/theirs.py {tmp_path}/mine.py;")
    done = run("-m", "seed=1,2", "plugins=[./mine.py]", *FAST, "epochs=1", *ON_RAY, cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "mine.py is not the file that this run was made with" in done.stderr
    assert [row.state for row in rows(tmp_path / "s")] == ["waiting"] * 2


def test_a_search_and_what_the_cluster_has_no_room_for(cluster: Start, tmp_path: Path) -> None:
    cluster("node-1"), cluster("node-2")
    search = ("hydra/sweeper=optuna", "lr=tag(log,interval(1e-3,1e-1))", "hydra.sweeper.trials=3")
    done = run("-m", *search, *FAST, "epochs=1", *ON_RAY, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row.state for row in rows(tmp_path / "s")] == ["done"] * 3
    assert "best: job " in done.stdout
    words = ("seed=1,2", "hydra.launcher.cpus=2", "hydra/launcher=ray", "hydra.sweep.dir=large")
    process = start("-m", *words, *FAST, cwd=tmp_path)
    out = ""
    while "has room for 2 CPUs; waiting for one" not in out and process.poll() is None:
        out += process.stdout.readline() if process.stdout else ""
    process.send_signal(signal.SIGTERM)
    out += process.communicate(timeout=60)[0]
    assert process.returncode == 143, out
    assert [row.state for row in rows(tmp_path / "large")] == ["waiting"] * 2


def test_without_a_cluster_it_says_how_to_start_one(tmp_path: Path) -> None:
    words = ("hydra.launcher.address=auto", "seed=1,2", *FAST, *ON_RAY)
    done = run("-m", *words, cwd=tmp_path, RAY_TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert "hydra.launcher.address=auto: no Ray cluster runs here" in done.stderr
    assert "ray start --head" in done.stderr
    assert not (tmp_path / "s").exists()
