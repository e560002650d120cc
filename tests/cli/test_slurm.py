"""Jobs on a real SLURM of one node, out of time, pre-empted, cancelled: docs/slurm.md's, and a sweep's."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.program import SLOW_PLUGIN, start, wait_for
from tests.helpers.program import run as program
from tests.helpers.runs import metrics, record
from trainctl.sweep.ledger import Ledger, Row

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
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """A SLURM of this machine; calls one of its commands and returns what it prints."""
    folder, host = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    for each in ("state", "spool"):
        (folder / each).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    text = CONFIG.format(host=host, folder=folder, ports=(_free_port(), _free_port()), cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
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
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        return done.stdout

    with ExitStack() as running:
        for words in daemons:
            log = running.enter_context((folder / f"{words[0]}.out").open("wb"))
            daemon = subprocess.Popen(words, stdout=log, stderr=log)
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


@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("submitit") is None, reason="needs Hydra's submitit launcher")
def test_a_job_of_a_sweep_is_queued_again_and_goes_on(slurm: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_PLUGIN)
    # Within ten minutes of the limit submitit counts each stop as one of time.
    queue = ("partition=low", "timeout_min=9", "cpus_per_task=1", "max_num_timeout=2")
    launcher = ("hydra/launcher=submitit_slurm", *(f"hydra.launcher.{each}" for each in queue))
    words = ("plugins=[./slow.py]", "optim=sgd", "seed=1", "epochs=80", "batch_size=320", "threads=1")
    sweep = start("-m", *words, "display.mode=none", "hydra.sweep.dir=s", *launcher, cwd=tmp_path)
    wait_for((tmp_path / "s/jobs.jsonl").exists, 60)
    ledger = Ledger(tmp_path / "s")
    (job,) = ledger.jobs()

    def row() -> Row:
        return ledger.stored(job)

    def stopped(after: int, *how: str) -> int:
        """The step at which the job, once it is past a step, is stopped; it is queued again."""
        wait_for(
            lambda: sweep.poll() is not None or (row().state == "running" and (row().step or 0) > after), 120
        )
        slurm(*how)
        wait_for(lambda: row().state == "interrupted", 60)
        wait_for(lambda: "PENDING" in slurm("scontrol", "show", "job", number), 60)
        slurm("scontrol", "update", f"JobId={number}", "StartTime=now")
        return row().step or 0

    wait_for(lambda: slurm("squeue", "--noheader"), 60)
    number = slurm("squeue", "--noheader", "--format=%i").strip()
    first = stopped(20, "scancel", "--signal=USR2", number)  # as when its time is nearly up
    high = ("sbatch", "--partition=high", f"--ntasks={os.cpu_count()}", "--wrap=true")
    second = stopped(first, *high)  # pre-empts
    out, err = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, out + err
    assert (row().state, row().attempts) == ("done", 3)
    assert record(tmp_path / "s/0")["resumed"]["step"] == second > first > 20
    assert [line["step"] for line in metrics(tmp_path / "s/0") if "lr" in line] == list(range(1, 321))
