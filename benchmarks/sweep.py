"""A sweep of 32 small networks, four ways: Hydra's basic launcher, joblib, warm workers, fused.

    python benchmarks/sweep.py --mnist DIR [--rounds 3] [--work digits_small …] [--json FILE]

The same 32 jobs (8 learning rates, 4 seeds) with SGD and momentum, no dropout, from Enter to the ranked
table. Each way runs with one thread a job and with all of the machine's, in turn, round by round; what is
reported is each way's better one, and the ratio to basic of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAINCTL = str(Path(sys.executable).with_name("trainctl"))
RATES = "lr=0.01,0.02,0.03,0.05,0.08,0.1,0.15,0.2"
SEEDS = "seed=1,2,3,4"
WORKS = {
    "digits_small": ["model.hidden=[32,32]", "epochs=20"],
    "digits_large": ["model.hidden=[128,64]", "epochs=20"],
    "mnist_small": ["dataset=mnist", "model.hidden=[32,32]", "epochs=1"],
    "mnist_large": ["dataset=mnist", "model.hidden=[128,64]", "epochs=1"],
}
WAYS = {
    "basic": ["hydra/launcher=basic"],
    "joblib": ["hydra/launcher=joblib"],
    "parallel": ["sweep.jobs=auto"],
    "fused": ["hydra/launcher=fused"],
}


def timed(way: str, work: str, mnist: Path | None, threads: int) -> float:
    """Seconds of one sweep. Raises RuntimeError where a job failed."""
    root = [f"dataset.root={mnist}"] if work.startswith("mnist") else []
    words = [*WORKS[work], *root, *WAYS[way], RATES, SEEDS, "optim=sgd_momentum", f"threads={threads}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [TRAINCTL, "-m", *words, "display.mode=none", "hydra.sweep.dir=sweep"]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        records = [json.loads(path.read_text()) for path in Path(folder).glob("sweep/*/run.json")]
    if done.returncode or [record["status"] for record in records] != ["done"] * 32:
        raise RuntimeError(f"{way} on {work} ended with exit {done.returncode}: {done.stderr[-500:]}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mnist", type=Path, help="the data root that holds MNIST/raw")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    results = {}
    for work in given.work:
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(given.rounds):
            for way in given.ways:
                for threads in sorted({1, os.cpu_count() or 1}):
                    times.setdefault((way, threads), []).append(timed(way, work, given.mnist, threads))
        results[work] = {f"{way}, threads={threads}": found for (way, threads), found in times.items()}
        report(work, given.ways, times)
        if given.json:
            given.json.write_text(json.dumps(results, indent=1))


def report(work: str, ways: list[str], times: dict[tuple[str, int], list[float]]) -> None:
    """A row a way, at its better number of threads."""
    print(f"\n{work}: 32 jobs ({' '.join(WORKS[work])})")
    better = {
        way: min((key for key in times if key[0] == way), key=lambda key: statistics.median(times[key]))
        for way in ways
    }
    base = times[better[ways[0]]]
    for way in ways:
        found = times[better[way]]
        ratios = sorted(a / b for a, b in zip(base, found, strict=True))
        print(
            f"{way:<10} threads={better[way][1]}  {statistics.median(found):7.2f} s   "
            f"{statistics.median(ratios):5.2f} x {ways[0]} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
