"""Running the installed program, as a person does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("trainctl")


def start(*words: str, cwd: Path, own_group: bool = False, **environment: str) -> subprocess.Popen[str]:
    """Start the program in ``cwd``, output captured; ``own_group`` gives it a process group."""
    return subprocess.Popen(
        [str(PROGRAM), *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=own_group,
    )


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in ``cwd`` to its end."""
    process = start(*words, cwd=cwd, **environment)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
