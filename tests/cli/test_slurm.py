"""The sbatch file of docs/slurm.md on a real SLURM of one node: out of time, pre-empted, cancelled."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.program import run as program
from tests.helpers.program import wait_for
from tests.helpers.runs import metrics, record

DAEMONS = ("munged", "slurmctld", "slurmd")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, DAEMONS)) or os.geteuid() != 0,
        reason="needs slurmctld, slurmd and munge, and to be root",
    ),
]
PAGE = Path(__file__).parents[2] / "docs" / "slurm.md"
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=10 State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes={host} MaxTime=10 State=UP PriorityTier=10 PreemptMode=OFF
"""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A SLURM of this machine; calls one of its commands and returns what it prints."""
    folder, host = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    for each in ("state", "spool"):
        (folder / each).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    text = CONFIG.format(host=host, folder=folder, ports=(_free_port(), _free_port()), cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = [
        f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("socket", "pid-file", "log-file")
    ]
    seed = f"--seed-file={folder}/munge.seed"
    daemons = (
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge, seed],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    )

    def call(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return done.stdout

    with ExitStack() as running:
        for words in daemons:
            log = running.enter_context((folder / f"{words[0]}.out").open("wb"))
            daemon = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
            running.callback(daemon.wait, 30)
            running.callback(daemon.terminate)
            wait_for((folder / "munge.socket").exists, 10)
        wait_for(lambda: "idle" in call("sinfo", "--noheader"), 30)
        yield call
        call("scancel", "--user=root")
        wait_for(lambda: not call("squeue", "--noheader"), 30)


def test_the_run_goes_on_each_time_the_job_is_requeued(slurm: Callable[..., str], tmp_path: Path) -> None:
    (script,) = re.findall(r"```sbatch\n(.*?)```", PAGE.read_text(), re.DOTALL)
    program = f"{sys.executable} -m trainctl"
    script = script.replace("srun trainctl", f"srun {program}").replace("04:00:00", "00:01:00")
    script = script.replace("experiment=mnist_lenet", "epochs=500000 threads=1")
    (tmp_path / "first.sh").write_text(script.replace("USR1@120", "USR1@10"))
    run = tmp_path / "outputs/first"

    def job(key: str) -> str:
        (found,) = re.findall(rf"\b{key}=(\S+)", slurm("scontrol", "show", "job", number))
        return found

    def saved() -> int:
        return max((int(path.name[5:]) for path in run.glob("checkpoints/step-*")), default=0)

    number = slurm("sbatch", "--parsable", "first.sh").strip()
    wait_for(lambda: (job("JobState"), job("Restarts")) == ("PENDING", "1"), 100)  # out of time
    assert (record(run)["status"], record(run)["exit_code"]) == ("terminated", 143)
    first = saved()

    slurm("scontrol", "update", f"JobId={number}", "StartTime=now")
    wait_for(lambda: saved() > first, 60)
    assert record(run)["resumed"]["step"] == first
    slurm("sbatch", "--partition=high", f"--ntasks={os.cpu_count()}", "--wrap=true")  # pre-empts
    wait_for(lambda: (job("JobState"), job("Restarts")) == ("PENDING", "2"), 60)
    assert (record(run)["status"], record(run)["exit_code"]) == ("terminated", 143)
    second = saved()

    slurm("scontrol", "update", f"JobId={number}", "StartTime=now")
    wait_for(lambda: saved() > second, 60)
    assert record(run)["resumed"]["step"] == second > first
    slurm("scancel", number)
    wait_for(lambda: job("JobState") == "CANCELLED", 60)
    assert (job("JobState"), job("Restarts")) == ("CANCELLED", "2")
    wait_for(lambda: record(run)["status"] == "terminated", 30)
    steps = [line["step"] for line in metrics(run) if "lr" in line]
    assert steps == list(range(1, len(steps) + 1))
    log = (tmp_path / f"first-{number}.log").read_text()
    assert [log.count(f"resumed from step-{step:08d}") for step in (first, second)] == [1, 1]


def test_tasks_of_srun_train_one_model(slurm: Callable[..., str], tmp_path: Path) -> None:
    """A process each, numbered by SLURM alone; its signal stops all, and one device carries the run on."""
    words = "epochs=100000 batch_size=32 dataset.limit=256 threads=1 strategy.timeout=60 display.mode=plain"
    # Tasks of one node, whose own address is not reachable here.
    prefix = f"MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo srun {sys.executable} -m trainctl"
    script = f"#!/bin/bash\n{prefix} {words} hydra.run.dir=run\n"
    (tmp_path / "two.sh").write_text(script)
    number = slurm("sbatch", "--parsable", "--ntasks=2", "--output=two.log", "two.sh").strip()
    run = tmp_path / "run"
    wait_for(lambda: list(run.glob("checkpoints/step-*")), 90)
    slurm("scancel", "--signal=TERM", number)
    wait_for(lambda: (run / "run.json").is_file() and record(run)["status"] != "running", 60)
    assert (record(run)["status"], record(run)["exit_code"]) == ("terminated", 143)
    assert [each["rank"] for each in record(run)["ranks"]] == [0, 1]
    assert "ddp on 2 devices" in (tmp_path / "two.log").read_text()
    steps = [line["step"] for line in metrics(run) if "lr" in line]
    done = program(
        "resume", "run", "devices=1", "train.epochs=null", f"train.max_steps={steps[-1] + 9}", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(run) if "lr" in line] == list(range(1, steps[-1] + 10))
