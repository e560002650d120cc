"""``threads=auto`` beside one and two threads, idle and beside other busy processes.

    python benchmarks/threads.py [--rounds 3] [--mnist FOLDER] [--load 0 1 2]

Three models (the digits MLP; the MNIST MLP and LeNet where FOLDER has MNIST), whole commands in new
processes, interleaved; samples a second over all epochs and seconds of the command, medians. ``auto``
measures in a cache of its own: once when idle, as on a machine that is used for other things later. "auto of
best" is its samples a second as a share of the better fixed number's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAINCTL = str(Path(sys.executable).with_name("trainctl"))
WAYS = ("auto", "1", "2")
MODELS = {
    "digits MLP": ("epochs=40",),
    "MNIST MLP": ("dataset=mnist", "epochs=1", "train.max_steps=1500"),
    "LeNet": ("dataset=mnist", "model=lenet", "epochs=1", "train.max_steps=400"),
}


def run(words: tuple[str, ...], threads: str, folder: Path) -> tuple[float, float]:
    """Samples a second of training, and seconds of the whole command."""
    directory = folder / "run"
    own = (f"threads={threads}", "display.mode=none", f"hydra.run.dir={directory}")
    environment = {name: value for name, value in os.environ.items() if "OMP_" not in name}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    started = time.perf_counter()
    command = [TRAINCTL, *words, *own]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - started
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rates = [row["samples_per_second"] for row in rows if "samples_per_second" in row]
    shutil.rmtree(directory)
    return statistics.harmonic_mean(rates), taken


def busy(count: int) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mnist", type=Path, help="the folder that has MNIST/raw")
    parser.add_argument("--load", type=int, nargs="*", default=[0, 1, 2])
    chosen = parser.parse_args()
    models = {
        name: (*words, *((f"dataset.root={chosen.mnist.resolve()}",) if "dataset=mnist" in words else ()))
        for name, words in MODELS.items()
        if chosen.mnist or "dataset=mnist" not in words
    }
    print(f"{os.cpu_count()} cores, medians of {chosen.rounds} interleaved rounds: samples/s (seconds)")
    print(f"{'model':<12} load  {'  '.join(f'threads={way:<12}' for way in WAYS)}  auto of best")
    for name, words in models.items():
        with tempfile.TemporaryDirectory() as folder:
            run(words, "auto", Path(folder))  # the choice is made on an idle machine
            for load in chosen.load:
                found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
                others = busy(load)
                try:
                    for _ in range(chosen.rounds):
                        for way in WAYS:
                            found[way].append(run(words, way, Path(folder)))
                finally:
                    for each in others:
                        each.kill()
                rate = {way: statistics.median(rate for rate, _ in found[way]) for way in WAYS}
                cells = [
                    f"{rate[way]:>9,.0f} ({statistics.median(taken for _, taken in found[way]):>4.1f} s)"
                    for way in WAYS
                ]
                share = rate["auto"] / max(rate["1"], rate["2"])
                row = "  ".join(f"{cell:<20}" for cell in cells)
                print(f"{name:<12} {load:>4}  {row}  {share:.2f}", flush=True)


if __name__ == "__main__":
    main()
