"""What a step costs with each guard, against none.

    python benchmarks/guards.py [--rounds 101] [--steps 100] [--device cpu]

The standard loop trains an MLP 784-128-64-10 on made-up data of MNIST's shape, batch 64, fused Adam, on the
CPU with one thread. The guards take turns, in another order each round; medians of the time a step and of the
ratio to the same round without a guard.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from runs import make_run
from trainctl.training.hooks.guard import Guard
from trainctl.training.loop import fit
from trainctl.training.run import Run

GUARDS: dict[str, Callable[[], list[Guard]]] = {
    "none": list,
    "default": lambda: [Guard()],
    "full": lambda: [Guard(gradients=True)],
}


def timed(run: Run, steps: int, device: torch.device) -> float:
    """Seconds a step over the next ``steps``."""
    run.total_steps += steps
    wait = torch.cuda.synchronize if device.type == "cuda" else nullcontext
    wait()
    started = time.perf_counter()
    fit(run)
    wait()
    return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    asked = parser.parse_args()
    device = asked.device
    if device.type == "cpu":
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, one thread"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {name}, {versions}")
    print(f"medians of {asked.rounds} rounds of {asked.steps} steps; lowest and highest ratio in parentheses")

    runs = {guard: make_run(make(), device, samples=6400, dropout=0) for guard, make in GUARDS.items()}
    for run in runs.values():
        timed(run, asked.steps, device)
    seconds: dict[str, list[float]] = {guard: [] for guard in GUARDS}
    order = list(GUARDS)
    for _ in range(asked.rounds):
        order = [*order[1:], order[0]]
        for guard in order:
            seconds[guard].append(timed(runs[guard], asked.steps, device))
    for guard, times in seconds.items():
        ratios = sorted(time / plain for time, plain in zip(times, seconds["none"], strict=True))
        print(
            f"guard={guard:<8} {1e6 * statistics.median(times):7.1f} µs a step   "
            f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )


if __name__ == "__main__":
    main()
