"""From Enter to the first step, and back to the prompt: trainctl against bare scripts doing the same work.

    python benchmarks/startup.py [--rounds 7] [--verbs]

New processes in turn, from their start until the line of the first step's loss is read from them, or until
they have ended; medians and the ratio pair by pair, with one thread and with all. trainctl's time holds
composing and checking the config, making the run directory, holding out validation data, checkpoints and
pictures. With ``--verbs``: the commands on a finished run, one thread, as a share of ``import torch``. Its
modules are compiled to bytecode before, as pip does it where trainctl is installed.
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

HERE = Path(__file__).parent
TRAINCTL = str(Path(sys.executable).with_name("trainctl"))
ONE_STEP = ("train.max_steps=1", "display.mode=plain", "display.every=1")
# What is timed: its name, the bare script, trainctl's words, whether until the end.
WORKS = (
    ("to the first step", "bare.py", ONE_STEP, False),
    ("debug=one_step, whole", "bare.py", ("debug=one_step",), True),
    ("default run, whole", "bare_run.py", (), True),
)

# On a small finished run; those of the second part need no torch.
VERBS = (
    ("eval", "run"),
    ("predict", "run", "--input", "rows.npz", "--output", "out.csv"),
    ("export", "run", "--format", "safetensors", "--output", "out.safetensors", "--force"),
    ("resume", "run"),
    ("compare", "run"),
    ("ls",),
    ("--cfg", "job"),
    ("--version",),
)


def verbs(rounds: int) -> None:
    """Print the seconds of each command, and its share of ``import torch`` in the same round."""
    import numpy

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        start = [TRAINCTL, "epochs=1", "hydra.run.dir=run", "display.mode=none", "threads=1"]
        subprocess.run(start, cwd=folder, env=environment, check=True)
        numpy.savez(Path(folder) / "rows.npz", inputs=numpy.zeros((100, 1, 8, 8), numpy.uint8))
        commands = [[sys.executable, "-c", "import torch"], *([TRAINCTL, *words] for words in VERBS)]
        taken: list[list[float]] = [[] for _ in commands]
        for _ in range(rounds + 1):
            for seconds, command in zip(taken, commands, strict=True):
                started = time.perf_counter()
                subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
                seconds.append(time.perf_counter() - started)
    alone = taken[0][1:]
    print(f"{'import torch':<12} {statistics.median(alone):.2f} s")
    for words, seconds in zip(VERBS, taken[1:], strict=True):
        ratios = [one / other for one, other in zip(seconds[1:], alone, strict=True)]
        print(
            f"{words[0]:<12} {statistics.median(seconds[1:]):.2f} s   ratio {statistics.median(ratios):.2f}"
        )


def timed(command: list[str], folder: str, threads: int | None, *, whole: bool) -> float:
    """Seconds until the first step's loss is read, or the process has ended. Raises when it fails."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
        command = [*command, f"threads={threads}"] if command[0] == TRAINCTL else command
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = next(
            (time.perf_counter() for line in process.stdout if "step 1/" in line or "Step [1/" in line), None
        )
        process.stdout.read()
    ended = time.perf_counter()
    if process.returncode or (seen is None and not whole):
        raise RuntimeError(f"{command} ended with exit {process.returncode}")
    return (ended if whole or seen is None else seen) - started


def compare(
    script: str, words: tuple[str, ...], rounds: int, threads: int | None, *, whole: bool
) -> tuple[float, float, list[float]]:
    """Median seconds of the bare script and of trainctl, and the sorted ratios of the pairs."""
    commands = ([sys.executable, str(HERE / script)], [TRAINCTL, *words])
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            timed(command, folder, threads, whole=whole)
        pairs = [
            [timed(command, folder, threads, whole=whole) for command in commands] for _ in range(rounds)
        ]
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
    parser.add_argument("--verbs", action="store_true", help="the commands on a finished run")
    given = parser.parse_args()
    rounds = given.rounds
    compile_package()
    if given.verbs:
        verbs(rounds)
        return
    import torch

    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}")
    print(f"medians of {rounds} paired rounds")
    for name, script, words, whole in WORKS:
        for threads in (1, None):
            bare, ours, ratios = compare(script, words, rounds, threads, whole=whole)
            label = "one thread" if threads else "all threads"
            print(
                f"{name:<22} {label:<12} bare script {bare:.2f} s   trainctl {ours:.2f} s   "
                f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
