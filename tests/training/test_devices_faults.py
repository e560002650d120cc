"""What may happen to a process of a run on two devices: all end soon, none is left, and the run goes on."""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.program import wait_for
from tests.helpers.ranks import ForkedRank, rows, weights
from tests.helpers.ranks import warm_ranks as warm_ranks
from trainctl.cli.main import main
from trainctl.distributed import launch
from trainctl.smoke import two_devices

pytestmark = [pytest.mark.usefixtures("warm_ranks"), pytest.mark.slow]
FAULTY = """
import math, multiprocessing, os, resource, signal, time
from pathlib import Path
import torch
from torch import nn
from trainctl.registry import MODELS

def little_memory():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)

def torch_memory():
    little_memory()
    torch.ones(1 << 30)

def python_memory():
    little_memory()
    bytearray(1 << 32)

def device_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

def worker():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

def full_disk():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

def hang():
    time.sleep(300)

def hang_outside_python():
    torch.futures.Future().wait()

@MODELS.register("faulty")
class Faulty(nn.Sequential):
    def __init__(self, input_shape, output_size):
        super().__init__(
            nn.Flatten(), nn.Linear(math.prod(input_shape), 32), nn.Dropout(0.2), nn.Linear(32, output_size)
        )
        self.calls, self.rank = 0, os.environ.get("RANK", "0")

    def forward(self, inputs):
        outputs = super().forward(inputs)
        self.calls += self.training
        fault, victim = os.environ.get("FAULT", " ").split(" ")
        if not self.training or self.calls < 12 or not fault:
            return outputs
        if self.calls == 12:
            Path(f"pid-{self.rank}").write_text(str(os.getpid()))
            if self.rank == victim and fault == "not_finite":
                return outputs * math.nan
            if self.rank == victim:
                globals()[fault]()
        time.sleep(0.05)
        return outputs
"""
WORDS = (
    "plugins=[./faulty.py]", "model.name=faulty", "threads=1", "train.batch_size=8", "train.epochs=8",
    "display.mode=plain", "checkpoint.every_steps=3", "devices=2", "hydra.run.dir=run", "strategy.timeout=60",
)  # fmt: skip
RESIDENT = ("dataset.limit=64",)
ONE_BY_ONE = (
    "dataset=image_folder", "dataset.val=0.2", "dataset.path=images", "dataset.size=[4,4]",
    "dataset.cache=false", "loader=workers", "loader.workers=1",
)  # fmt: skip
_ORDERLY = 10.0
"""Seconds; twice as many for processes that are no forks, of a suite that has both cores busy."""


class ForkedRun(two_devices.ForkedRank):
    """Rank 0 of a run, forked from the warm test process, in a session of its own, as in a terminal."""

    def live(self) -> None:
        launch.Process = ForkedRank  # type: ignore[misc, assignment]
        faulthandler.enable()
        code = main(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Faulted:
    """A run that meets a fault in its twelfth step; with ``program`` its processes are those of a user."""

    def __init__(self, fault: str, *words: str, program: bool = False) -> None:
        environment = {**os.environ, "FAULT": fault, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "trainctl", *WORDS, *words]
        with Path("said").open("w") as said, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["trainctl", *WORDS, *words])
            self.process: Any = (
                subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)
                if program
                else ForkedRun(command, env=environment, stdout=said)
            )

    def reached(self) -> Faulted:
        """The same, once it has met its fault."""
        wait_for(lambda: all(map(os.path.exists, ("pid-0", "pid-1"))) or self.process.poll() is not None)
        self.began = time.monotonic()
        return self

    def ends(self, code: int, says: str, within: float = 0.0, *, recorded: bool = True) -> None:
        """Assert how it ends, ``within`` how many seconds beside those of an orderly end, with none left."""
        assert self.process.wait(timeout=60) == code, Path("said").read_text()
        orderly = 2 * _ORDERLY if isinstance(self.process, subprocess.Popen) else _ORDERLY
        assert time.monotonic() - self.began < within + orderly
        if self.process.stdin is not None:
            self.process.stdin.close()
        assert says in Path("said").read_text()
        wait_for(lambda: not living(), 5)
        assert not living()
        record = json.loads(Path("run/run.json").read_text())
        assert not recorded or record["exit_code"] == code
        assert record["status"] != "done"


def living() -> list[str]:
    """Processes that work in this folder, the test's own aside."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            works_here = (folder / "cwd").readlink() == Path.cwd()
            ended = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if works_here and not ended and int(folder.name) != os.getpid():
            found.append(f"{folder.name} {(folder / 'cmdline').read_bytes()!r}")
    return found


@pytest.fixture
def goes_on(tmp_path: Path, trainctl: Callable[..., Any]) -> Callable[..., None]:
    """Resume the run of this folder, and find the losses and weights of one that met no fault."""
    (tmp_path / "faulty.py").write_text(FAULTY)

    def resume(*data: str, same: bool = True) -> None:
        for words in (("resume", "run", "strategy.timeout=60"), (*WORDS, *data, "hydra.run.dir=peace")):
            outcome = trainctl(*words)
            assert outcome.code == 0, outcome.err
        went_on, whole = (
            {row["step"]: row["train/loss"] for row in rows(run) if "train/loss" in row}
            for run in ("run", "peace")
        )
        assert len(whole) == len(went_on) > 40
        assert whole == went_on or not same
        if same:
            final = weights("run")
            assert all(torch.equal(tensor, final[name]) for name, tensor in weights("peace").items())

    return resume


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("torch_memory", 2, "there is not enough memory: 4,295 MB more are needed"),
        ("python_memory", 2, "there is not enough memory"),
        ("device_memory", 2, "the device has not enough memory: CUDA out of memory. Tried to allocate 2.00"),
        ("not_finite", 6, "the loss is nan at step 11"),
    ],
)
def test_a_fault_of_one_process_ends_all(
    fault: str, code: int, says: str, rank: int, goes_on: Callable[..., None]
) -> None:
    named = f"rank 1 ended with exit code {code}" if rank == 1 and code != 6 else "error"
    Faulted(f"{fault} {rank}", *RESIDENT).reached().ends(code, f"{named}: {says}")
    goes_on(*RESIDENT)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_data_worker_that_is_killed_ends_all(
    rank: int, goes_on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for name, shade in (("dark", 40), ("light", 150)):
        Path("images", name).mkdir(parents=True)
        for number in range(30):
            Image.new("L", (4, 4), shade + number).save(f"images/{name}/{number:02}.png")
    monkeypatch.setattr(launch, "Process", subprocess.Popen)  # forked ranks cannot have workers
    Faulted(f"worker {rank}", *ONE_BY_ONE, program=True).reached().ends(8, "a data worker was killed by SIG")
    goes_on(*ONE_BY_ONE)


@pytest.mark.parametrize(
    ("rank", "fault", "says"),
    [
        (0, "hang", "rank 0 did not answer the others in time"),
        (0, "hang_outside_python", "rank 0 did not answer the others in time"),
        (1, "hang", "rank 1 did not answer for 3 s"),
    ],
)
def test_a_process_that_hangs_is_named_and_ended(
    rank: int, fault: str, says: str, goes_on: Callable[..., None]
) -> None:
    run = Faulted(f"{fault} {rank}", *RESIDENT, "strategy.timeout=3").reached()
    run.ends(8, says, 3.0 + 13.0, recorded=fault == "hang")
    assert rank == 0 or "time.sleep(300)" in Path("run/logs/rank-1.log").read_text()
    goes_on(*RESIDENT)


@pytest.mark.parametrize(("rank", "strategy"), [(0, "ddp"), (0, "fsdp"), (1, "fsdp")])
def test_a_disk_without_room_for_a_checkpoint(rank: int, strategy: str, goes_on: Callable[..., None]) -> None:
    words = (*RESIDENT, f"strategy={strategy}")
    # No forks: a thread of gloo may crash in one, where the process before it has had other groups.
    Faulted(f"full_disk {rank}", *words, program=True).reached().ends(5, "File too large")
    goes_on(*words)


def test_a_full_disk(goes_on: Callable[..., None]) -> None:
    Path("disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", "disk"]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        Path("run").symlink_to("disk/run")
        run = Faulted("none -", *RESIDENT, "checkpoint.keep_last=100", "hydra.run.dir=disk/run").reached()
        run.ends(5, "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=100m", "disk"], check=True)
        goes_on(*RESIDENT)
    finally:
        subprocess.run(["umount", "disk"], check=True)


@pytest.mark.parametrize(
    ("name", "whom", "code"),
    [
        ("SIGINT", "terminal", 130),
        ("SIGINT", "01", 130),
        ("SIGTERM", "terminal", 143),
        ("SIGTERM", "0", 143),
        ("SIGTERM", "1", 143),
        ("SIGTERM", "01", 143),
    ],
)
def test_a_signal_stops_all_after_the_same_step(
    name: str, whom: str, code: int, goes_on: Callable[..., None]
) -> None:
    run, number = Faulted("none -", *RESIDENT).reached(), getattr(signal, name)
    if whom == "terminal":
        os.killpg(run.process.pid, number)
    else:
        for rank in whom:
            os.kill(int(Path(f"pid-{rank}").read_text()), number)
    run.ends(code, f"{'interrupted' if code == 130 else 'terminated'}: the run was saved in run/checkpoints/")
    goes_on(*RESIDENT)


@pytest.mark.parametrize("fault", ["none -", "hang 1", "hang 0"])
def test_a_second_interrupt_ends_all_at_once(fault: str, goes_on: Callable[..., None]) -> None:
    run = Faulted(fault, *RESIDENT).reached()
    for wait in (0.3, 0.0):
        os.killpg(run.process.pid, signal.SIGINT)
        time.sleep(wait)
    run.ends(130, "interrupted")
    goes_on(*RESIDENT)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("after", [0.5, 2.0, 4.0])
def test_a_signal_while_it_starts_leaves_no_process(
    name: str, after: float, goes_on: Callable[..., None]
) -> None:
    run = Faulted("none -", *RESIDENT, program=True)
    time.sleep(after)
    os.killpg(run.process.pid, getattr(signal, name))
    # Before the program is there, a signal ends Python itself.
    assert run.process.wait(timeout=60) in (130, 143, -getattr(signal, name))
    wait_for(lambda: not living(), 5)
    assert not living()
