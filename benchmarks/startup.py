"""From Enter to the first step: trainctl's default run against a bare script doing the same work.

    python benchmarks/startup.py [--rounds 7]

New processes in turn, from their start until the line of the first step's loss is read from them; medians
and the ratio pair by pair, with one thread and with all. trainctl's time holds composing and checking the
config, making the run directory and holding out validation data. Its modules are compiled to bytecode before,
as pip does it where trainctl is installed.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BARE = [sys.executable, str(Path(__file__).with_name("bare.py"))]
TRAINCTL = [
    str(Path(sys.executable).with_name("trainctl")),
    "train.max_steps=1",
    "display.mode=plain",
    "display.every=1",
]


def timed(command: list[str], folder: str, threads: int | None) -> float:
    """Seconds until the first step's loss is read. Raises when the process fails."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
        command = [*command, f"threads={threads}"] if command[0] == TRAINCTL[0] else command
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = next(
            (time.perf_counter() for line in process.stdout if "step 1/" in line or "Step [1/" in line), None
        )
        process.stdout.read()
    if process.returncode or seen is None:
        raise RuntimeError(f"{command} ended with exit {process.returncode}")
    return seen - started


def compare(rounds: int, threads: int | None) -> tuple[float, float, list[float]]:
    """Median seconds of the bare script and of trainctl, and the sorted ratios of the pairs."""
    with tempfile.TemporaryDirectory() as folder:
        for command in (BARE, TRAINCTL):
            timed(command, folder, threads)
        pairs = [(timed(BARE, folder, threads), timed(TRAINCTL, folder, threads)) for _ in range(rounds)]
    bare, ours = zip(*pairs, strict=True)
    return statistics.median(bare), statistics.median(ours), sorted(b / a for a, b in pairs)


def compile_package() -> None:
    """Bytecode for trainctl's modules, also where Python is told to write none. Without importing them."""
    spec = importlib.util.find_spec("trainctl")
    assert spec is not None
    assert spec.origin is not None
    compileall.compile_dir(str(Path(spec.origin).parent), quiet=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    compile_package()
    import torch

    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}")
    print(f"start to first step, medians of {rounds} paired rounds")
    for threads in (1, None):
        bare, ours, ratios = compare(rounds, threads)
        label = "one thread" if threads else "all threads"
        print(
            f"{label:<12} bare script {bare:.2f} s   trainctl {ours:.2f} s   "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
