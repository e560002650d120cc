"""Jobs as one stacked model against the same jobs one by one, both in one warm process.

    python benchmarks/fused.py [--models 32] [--rounds 3] [--folder DIR] [--data ROOT]

Small MLPs on digits (64-32-32-10, 20 epochs of 20 steps, batch 64, Adam) that differ in seed and learning
rate, each with everything a run has: directory, metrics of every step, evaluations, checkpoints, the test.
With ``--data`` an epoch of MNIST with 784-128-64-10, too. The ways take turns, each with one thread and with
all; medians of the wall time, of the processor's time, and of what one is of the other in the same round.
Imports and composing the configs are not in it: benchmarks/sweep.py measures whole commands.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from trainctl.config.composer import Composed, Composer
from trainctl.config.overrides import to_hydra
from trainctl.config.stored_config import stored_files
from trainctl.config.sweep_jobs import compose_jobs
from trainctl.runs.directory import claim
from trainctl.sweep.fused import plan, train_group
from trainctl.training.display import Display
from trainctl.training.request import Request
from trainctl.training.train import train

RATES = (1e-3, 3e-3, 1e-2, 3e-4)
COMMON = ("device=cpu", "display.mode=none", "pictures=false")
WORK = {
    "digits": ("model.hidden=[32,32]",),
    "mnist": ("dataset=mnist", "model.hidden=[128,64]", "train.epochs=1"),
}


def jobs(words: tuple[str, ...], models: int) -> list[Composed]:
    """Configs that differ in seed and learning rate."""
    asked = [
        (
            *map(to_hydra, (*COMMON, *words)),
            f"seed={number // len(RATES)}",
            f"optim.lr={RATES[number % len(RATES)]}",
        )
        for number in range(models)
    ]
    found = list(compose_jobs(Composer(), asked))
    for each in found:
        if isinstance(each, Exception):
            raise each
    return [each for each in found if isinstance(each, Composed)]


def requests(composed: list[Composed], folder: Path, threads: int) -> list[Request]:
    """The jobs, each in a directory of its own."""
    found = []
    for number, job in enumerate(composed):
        directory = claim(folder / str(number), named=True)
        config = replace(job.config, threads=threads)
        found.append(Request(config, stored_files(job), directory, job.notices, "benchmark", latest=False))
    return found


def fused(asked: list[Request]) -> None:
    """All of them as one."""
    results = train_group(asked)
    wrong = [result for result in results if not isinstance(result, dict)]
    if wrong:
        raise SystemExit(f"a job failed: {wrong[0]}")


def one_by_one(asked: list[Request]) -> None:
    """One after the other."""
    for request in asked:
        train(request, Display())


WAYS: dict[str, Callable[[list[Request]], None]] = {"fused": fused, "one by one": one_by_one}


def measure(work: str, words: tuple[str, ...], models: int, rounds: int, folder: Path) -> None:
    """Run the ways in turns, and print what they took."""
    composed = jobs(words, models)
    groups, alone = plan([job.config for job in composed])
    if len(groups) != 1 or alone:
        raise SystemExit(f"{work}: the jobs are no group: {alone}")
    most = os.cpu_count() or 1
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for threads in sorted({1, most}):
            for way, run in WAYS.items():
                asked = requests(
                    composed, folder / f"{work}-{number}-{threads}-{way}".replace(" ", "-"), threads
                )
                wall, processor = time.perf_counter(), time.process_time()
                run(asked)
                if number:  # the first warms up
                    spent = time.perf_counter() - wall, time.process_time() - processor
                    taken.setdefault((way, threads), []).append(spent)
    print(f"\n{work}: {models} models, medians of {rounds} rounds")
    print(f"{'way':<12} {'threads':>7} {'wall s':>8} {'cpu s':>8} {'ms a model':>11} {'times':>7}")
    for (way, threads), each in taken.items():
        walls = [wall for wall, _ in each]
        other = [wall for wall, _ in taken["one by one", threads]]
        ratio = statistics.median(theirs / ours for ours, theirs in zip(walls, other, strict=True))
        wall, processor = statistics.median(walls), statistics.median(spent for _, spent in each)
        each_model = 1000 * wall / models
        print(f"{way:<12} {threads:>7} {wall:>8.2f} {processor:>8.2f} {each_model:>11.1f} {ratio:>7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder without it")
    parser.add_argument("--data", type=Path, help="the root that holds MNIST/raw")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        measure("digits", WORK["digits"], asked.models, asked.rounds, folder)
        if asked.data is not None:
            words = (*WORK["mnist"], f"dataset.root={asked.data}")
            measure("mnist", words, asked.models, asked.rounds, folder)


if __name__ == "__main__":
    main()
