"""A handful of the gate's trials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def gate(*words: str, seconds: int) -> subprocess.CompletedProcess[str]:
    """The gate in a process of its own: this one has computed something, and its threads survive no fork."""
    command = [sys.executable, "-m", "tests.reliability", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)


@pytest.mark.slow
def test_a_handful_of_trials_misses_nothing() -> None:
    done = gate("--quick", seconds=120)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert {"killed at each operation", "ENOSPC at each operation", "power lost after each operation"} <= set(
        kinds
    )


@pytest.mark.slow
def test_a_kind_that_is_none_is_no_success() -> None:
    assert gate("nonsense", seconds=60).returncode == 2
