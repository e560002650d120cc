"""What becomes of a command whose output cannot be written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.helpers.program import PROGRAM


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which ``$T`` is the program."""
    return subprocess.run(["bash", "-c", f"T={PROGRAM}\n{line}"], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$T ls >/dev/full", 5),
        ("$T ls >&-", 0),
        ("$T ls 2>&- | true; exit ${PIPESTATUS[0]}", 0),
        ("$T nonsense 2>/dev/full", 2),
        ("$T nonsense >&- 2>&- <&-", 2),
    ],
)
def test_the_exit_code_says_it(line: str, code: int) -> None:
    done = shell(line)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_the_message_says_that_the_command_is_done() -> None:
    done = shell("$T ls >/dev/full")
    assert done.stderr == (
        "error: writing standard output failed: No space left on device\n"
        "       the command itself is done; only what it printed is incomplete\n"
    )


@pytest.mark.parametrize("mode", ["plain", "rich"])
@pytest.mark.slow
def test_a_run_and_a_sweep_whose_reader_has_gone_train_on(tmp_path: Path, mode: str) -> None:
    words = f"threads=1 epochs=2 display.mode={mode}"
    done = shell(
        f"cd {tmp_path}; $T {words} hydra.run.dir=run | true; echo ${{PIPESTATUS[0]}}\n"
        f"$T -m seed=1,2,3 {words} hydra.sweep.dir=sweep | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}\n"
        f"$T -m seed=1,2 {words} hydra.sweep.dir=closed >&- 2>&-; echo $?\n"
        f"$T -m seed=1,2 {words} hydra.sweep.dir=full >/dev/full; echo $?"
    )
    assert done.stdout.split() == ["0", "0", "0", "5"], done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("**/run.json")]
    assert [record["status"] for record in records] == ["done"] * 8
