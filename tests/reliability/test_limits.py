"""Too little of what the system gives: real processes with less memory and fewer open files."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

WORDS = ("threads=1", "train.max_steps=2", "display.mode=none")
SWEEP = ("-m", *WORDS, "seed=1,2,3,4", "sweep.jobs=4", "hydra.sweep.dir=sweep")


def limited(kind: int, most: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainctl", *words],
        cwd=cwd,
        preexec_fn=lambda: resource.setrlimit(kind, (most, most)),
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [100, 400, 1500])
def test_too_little_memory_for_torch_is_said(megabytes: int, tmp_path: Path) -> None:
    done = limited(resource.RLIMIT_AS, megabytes << 20, *WORDS, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "torch cannot be loaded" in done.stderr
    assert "ulimit -v" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("files", [10, 20, 40])
def test_too_few_open_files_for_a_sweeps_workers_are_said(files: int, tmp_path: Path) -> None:
    done = limited(resource.RLIMIT_NOFILE, files, *SWEEP, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert "ulimit -n 1024" in done.stderr
    assert "open files" in done.stderr
    assert "Traceback" not in done.stderr
