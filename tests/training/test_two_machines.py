"""Two machines that train one model: two network namespaces, joined by a cable that can be cut.

Needs root and iproute2; each machine is a torchrun of its own, with a network of its own and the same disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.program import run, wait_for
from tests.helpers.ranks import assert_same_run, rows

PORT = 29_431
WORDS = ("dataset.limit=256", "train.batch_size=32", "threads=1", "display.mode=plain", "hydra.run.dir=run")


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """The names of two namespaces at the ends of a cable, 10.77.0.1 and 10.77.0.2."""
    names = f"trainctl-{os.getpid()}-a", f"trainctl-{os.getpid()}-b"
    if shutil.which("ip") is None or ip("netns", "add", names[0], check=False).returncode:
        pytest.skip("needs root and iproute2, to make network namespaces")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", "va", "netns", names[0], "type", "veth", "peer", "name", "vb", "netns", names[1])
        for name, end, address in zip(names, ("va", "vb"), ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
            ip("-n", name, "address", "add", address, "dev", end)
            for each in (end, "lo"):
                ip("-n", name, "link", "set", each, "up")
        yield names
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


def begin(machine: str, number: int, folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start torchrun on a machine, with a process of its own for the only device there."""
    torchrun = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={number}", "--nproc-per-node=1"]
    place = ["--master-addr=10.77.0.1", f"--master-port={PORT}"]
    return subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, *torchrun, *place, "-m", "trainctl", *WORDS, *words],
        cwd=folder,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "va" if number == 0 else "vb", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_of(machine: str) -> list[str]:
    return ip("netns", "pids", machine).stdout.split()


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_machines_train_one_model(machines: tuple[str, str], strategy: str, tmp_path: Path) -> None:
    words = (f"strategy={strategy}", "strategy.timeout=60", "train.epochs=2")
    two = [begin(machine, number, tmp_path, *words) for number, machine in enumerate(machines)]
    said = [process.communicate(timeout=200)[0] for process in two]
    assert [process.returncode for process in two] == [0, 0], "\n".join(said)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert [each["rank"] for each in record["ranks"]] == [0, 1]
    alone = run(*WORDS[:-1], "hydra.run.dir=alone", "train.epochs=2", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert_same_run(str(tmp_path / "alone"), str(tmp_path / "run"))


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_cut_cable_ends_both_and_the_run_goes_on(machines: tuple[str, str], tmp_path: Path) -> None:
    words = ("strategy.timeout=10", "train.epochs=100000", "checkpoint.every_steps=8")
    two = [begin(machine, number, tmp_path, *words) for number, machine in enumerate(machines)]
    try:
        wait_for(lambda: list(tmp_path.glob("run/checkpoints/step-*/manifest.json")), 120)
        ip("-n", machines[0], "link", "set", "va", "down")
        cut = time.monotonic()
        said = [process.communicate(timeout=120)[0] for process in two]
        took = time.monotonic() - cut
    finally:
        for process in two:
            process.kill()
    assert [process.returncode != 0 for process in two] == [True, True]
    assert took < 60, took
    told = said[0], (tmp_path / "run/logs/rank-1.log").read_text()
    for each in told:
        assert "error: another process of this run has gone, or did not answer for 10 s" in each, said
    assert [processes_of(machine) for machine in machines] == [[], []]
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert (record["status"], record["exit_code"]) == ("failed", 8)
    reached = max(row["step"] for row in rows(str(tmp_path / "run")))
    done = run(
        "resume", "run", "devices=1", "train.epochs=null", f"train.max_steps={reached + 20}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(str(tmp_path / "run")) if "train/loss" in row][-1] == reached + 20
