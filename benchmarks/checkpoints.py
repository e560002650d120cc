"""What a checkpoint every epoch costs, against none.

    python benchmarks/checkpoints.py [--rounds 9] [--folder DIR]

The standard loop trains an MLP 784-128-64-10 with dropout for an epoch of 860 steps on made-up data shaped
like MNIST, batch 64, fused Adam, on the CPU with one thread, and saves everything at its end: model,
optimizer, random states, synced to the disk, read back and compared. The ways take turns; medians of the time
an epoch and of the ratio to the same round without saving.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from runs import make_run
from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, ready_to_save
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.loop import fit
from trainctl.training.run import Run

CPU = torch.device("cpu")


def hold(run: Run, copied: bool) -> Callable[[], CheckpointData]:
    plain = {**run.state.state_dict(), "data": {}, "data_fingerprint": ""}
    content = ready_to_save(snapshot.take(run.model.state_dict(), plain, run.parts()))
    return lambda: content


def epoch(run: Run) -> float:
    """Seconds of the next epoch, the checkpoint on the disk included."""
    run.total_steps += len(run.train_loader)
    started = time.perf_counter()
    fit(run)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the checkpoints go: the disk to measure"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, cpu, one thread, {versions}")
    print(f"medians of {asked.rounds} rounds; lowest and highest ratio in parentheses")
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        runs = {"none": make_run([], CPU)}
        for name, writer in (("overlapping", ThreadPoolExecutor(1)), ("waiting", None)):
            runs[name] = make_run([Checkpointer(Path(folder, name), hold, writer=writer)], CPU)
        for run in runs.values():
            epoch(run)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        order = list(runs)
        for _ in range(asked.rounds):
            order = [*order[1:], order[0]]
            for name in order:
                seconds[name].append(epoch(runs[name]))
    for name, times in seconds.items():
        ratios = sorted(each / plain for each, plain in zip(times, seconds["none"], strict=True))
        print(
            f"{name:<12} {statistics.median(times):6.3f} s an epoch   "
            f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
