"""Processes that torchrun starts, and starts again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.ranks import rows, weights

pytestmark = pytest.mark.slow
DIES = """
import math, os, signal
from pathlib import Path
from torch import nn
from trainctl.registry import MODELS

@MODELS.register("dies")
class Dies(nn.Sequential):
    def __init__(self, input_shape, output_size):
        super().__init__(nn.Flatten(), nn.Dropout(0.2), nn.Linear(math.prod(input_shape), output_size))
        self.calls, self.victim = 0, os.environ.get("VICTIM")
        self.starts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "2"))

    def forward(self, inputs):
        self.calls += self.training
        if self.calls == 12 and self.starts < 2 and os.environ["RANK"] == self.victim:
            Path(f"died-{self.starts}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs)
"""
WORDS = (
    "plugins=[./dies.py]", "model.name=dies", "threads=1", "strategy.timeout=30", "dataset.limit=203",
    "train.batch_size=32", "train.epochs=4", "display.mode=none", "checkpoint.every_steps=3",
)  # fmt: skip


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_is_restarted_into_a_resume(
    victim: int, trainctl: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "dies.py").write_text(DIES)
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=2")
    command = [sys.executable, *launcher, "-m", "trainctl", "resume", "./runs/again", "--or-start", *WORDS]
    ended = subprocess.run(
        command,
        env={**os.environ, "VICTIM": str(victim), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    assert Path("died-0").exists()
    assert Path("died-1").exists()
    assert [path.name for path in Path("runs").iterdir()] == ["again"]
    record = json.loads(Path("runs/again/run.json").read_text())
    assert (record["status"], record["exit_code"], len(record["ranks"])) == ("done", 0, 2)
    assert "resumed" in record

    assert trainctl(*WORDS, "devices=2", "hydra.run.dir=whole").code == 0
    losses = [
        [row.get("train/loss", row.get("test/loss")) for row in rows(run)] for run in ("whole", "runs/again")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) > 28
    for name, tensor in weights("whole").items():
        assert torch.equal(tensor, weights("runs/again")[name])
