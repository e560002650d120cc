"""Running the installed program, as a person does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("trainctl")

SLOW_PLUGIN = """\
import time
from torch.optim.optimizer import register_optimizer_step_pre_hook

print("imported")
register_optimizer_step_pre_hook(lambda *given: time.sleep(0.02))
"""
"""Steps that mostly wait: a run of some hundred can be stopped, however fast or busy the machine is."""


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


def wait_for(happened: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something has happened, at most ``seconds``; what follows finds out whether it has."""
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)


def modules_after(*words: str, cwd: Path, code: int = 0) -> set[str]:
    """The modules that the program has imported when it ends, with this exit code."""
    program = (
        "import sys; from trainctl.cli.main import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return set(done.stderr.splitlines()[-1].split())
