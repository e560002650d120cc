"""The installed program, killed with all its processes, ten times."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from PIL import Image

from tests.helpers.program import PROGRAM
from tests.helpers.runs import metrics
from trainctl.checkpoint.format import MODEL, TRAINING

STEPS = 3000
WORDS = (
    "dataset=image_folder", "dataset.path=images", "dataset.size=[8,8]", "dataset.cache=false",
    "dataset.max_resident_gb=1e-9", "loader=workers", "loader.workers=2", "model.hidden=[16]",
    "model.dropout=0.2", "train.batch_size=4", f"train.max_steps={STEPS}", "train.epochs=null",
    "checkpoint.every_steps=25", "threads=1", "device=cpu", "display.mode=none",
)  # fmt: skip


@pytest.fixture
def images() -> None:
    """Two classes of noise, in the current folder."""
    draw = numpy.random.default_rng(0)
    for number in range(120):
        path = Path("images", "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)).save(path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_kills_of_the_process_group_change_nothing(images: None) -> None:
    assert start(*WORDS, "hydra.run.dir=whole").wait(timeout=300) == 0
    draw, run, kills = random.Random(0), Path("killed"), 0
    command = [*WORDS, f"hydra.run.dir={run}"]
    while kills < 10:
        process = start(*command)
        had = checkpoints(run)
        # Only one that goes on is worth a kill.
        while process.poll() is None and len(checkpoints(run) - had) < 1:
            time.sleep(0.005)
        assert process.poll() is None, f"ended with {process.returncode} after {kills} kills"
        assert len(list(processes(process.pid))) > 1, "there are no workers to kill"
        time.sleep(draw.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
        kills += 1
        until = time.monotonic() + 2
        while (left := list(processes(process.pid))) and time.monotonic() < until:
            time.sleep(0.01)
        assert not left
        command = ["resume", str(run)]
    assert start(*command).wait(timeout=300) == 0

    last = Path("checkpoints", f"step-{STEPS:08d}")
    for name in (MODEL, TRAINING):
        assert (run / last / name).read_bytes() == (Path("whole") / last / name).read_bytes()
    assert metrics(run) == metrics(Path("whole"))
    assert json.loads((run / "run.json").read_text())["status"] == "done"
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]


def start(*words: str) -> subprocess.Popen[bytes]:
    """The program in a session, and so a process group, of its own."""
    with Path("output").open("ab") as output:
        return subprocess.Popen(
            [str(PROGRAM), *words], stdout=output, stderr=output, start_new_session=True, cwd=Path.cwd()
        )


def checkpoints(run: Path) -> set[str]:
    """The names of the checkpoints that are whole."""
    return {path.name for path in (run / "checkpoints").glob("step-*")}


def processes(session: int) -> Iterator[int]:
    """Those alive of a session."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(of) == session and state != "Z":
            yield int(path.parent.name)
