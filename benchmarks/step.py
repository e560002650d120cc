"""Where each microsecond of a step goes: the MNIST MLP on the CPU, one thread, with all that a run has.

    python benchmarks/step.py [--rounds 21] [--steps 200]

The standard loop with the guard, the log of metrics and a live display trains 784-128-64-10 with dropout,
batch 64, fused Adam, on made-up data of MNIST's shape. A clock is read between the lines of the step, around
each batch and around each hook (about 0.1 µs a reading, in the part that it ends). In turn with it come the
same run without clocks, the tightest hand-written loop on the same tensors, and the step's matrix products
alone, into memory that is there: the arithmetic's own time. Medians of rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runs import BATCH, make_run, network
from trainctl.training.hooks.console import Console
from trainctl.training.hooks.guard import Guard
from trainctl.training.hooks.metrics_log import MetricsLog
from trainctl.training.loop import fit
from trainctl.training.run import Run
from trainctl.ui.live import Rich

CPU = torch.device("cpu")
SAMPLES = 12_800


class Terminal(io.StringIO):
    """Takes what is drawn, as a terminal does."""

    def isatty(self) -> bool:
        return True


class Clocks:
    """Seconds by part of the step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            self.seconds[part] += time.perf_counter() - started
            return result

        return timed

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds["batch: gather and scaling"] += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def step(
        self,
        model: Any,
        criterion: Any,
        optimizer: Any,
        inputs: Tensor,
        targets: Tensor,
        _: Any,
        *,
        guard: Guard,
    ) -> Tensor:
        """``train_step``, line by line."""
        now, seconds = time.perf_counter, self.seconds
        started = now()
        outputs = model(inputs)
        forward = now()
        loss = criterion(outputs, targets)
        guard.accepts_loss(loss)
        lost = now()
        optimizer.zero_grad()
        zeroed = now()
        loss.backward()
        backward = now()
        optimizer.step()
        stepped = now()
        seconds["forward"] += forward - started
        seconds["loss, and the guard's look at it"] += lost - forward
        seconds["zero_grad"] += zeroed - lost
        seconds["backward"] += backward - zeroed
        seconds["Adam.step"] += stepped - backward
        return loss.detach()


def full_run(folder: Path, clocks: Clocks | None) -> Run:
    """A run with what a person's has; with clocks in it, or without."""
    hooks = [Guard(), MetricsLog(folder / "metrics.jsonl"), Console(Rich(Terminal()), 1)]
    run = make_run(hooks, CPU, samples=SAMPLES)
    if clocks is None:
        return run
    run.step = partial(clocks.step, guard=hooks[0])
    loader = run.train_loader
    make_batches = loader.batches
    loader.batches = lambda *where: clocks.batches(make_batches(*where))  # type: ignore[method-assign]
    for hook in hooks[1:]:
        # On the class: the loop asks it which hooks have something to do at a step.
        name = {"MetricsLog": "hook: every loss to metrics.jsonl", "Console": "hook: the live display"}
        kind = type(hook)
        timed = type(kind.__name__, (kind,), {"step": clocks.around(name[kind.__name__], kind.step)})
        hook.__class__ = timed
    return run


def steps_of(run: Run, steps: int) -> float:
    """Seconds a step over the next ``steps``."""
    run.total_steps += steps
    started = time.perf_counter()
    fit(run)
    seconds = time.perf_counter() - started
    for hook in run.hooks:
        if isinstance(hook, Console):
            hook.display.close()
    return seconds / steps


class Tightest:
    """The loop that one writes by hand, on the same tensors."""

    def __init__(self) -> None:
        run = make_run([], CPU, samples=SAMPLES)
        split = run.train_loader.split  # type: ignore[attr-defined]
        self.model = run.model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.inputs, self.targets = split.inputs, split.targets

    def __call__(self, steps: int) -> float:
        model, optimizer, inputs, targets = self.model, self.optimizer, self.inputs, self.targets
        loss_of = nn.CrossEntropyLoss()
        started = time.perf_counter()
        done = 0
        while done < steps:
            for index in torch.randperm(len(inputs)).split(BATCH):
                loss = loss_of(model(inputs[index]), targets[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                done += 1
                if done == steps:
                    break
        return (time.perf_counter() - started) / steps


class Products:
    """The matrix products of a step: one forward, two backward, for the first layer one."""

    def __init__(self) -> None:
        sizes = [(784, 128), (128, 64), (64, 10)]
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        for number, (inside, outside) in enumerate(sizes):
            weight, given = torch.randn(outside, inside), torch.randn(BATCH, inside)
            gradient = torch.randn(BATCH, outside)
            self.pairs.append((given, weight.T, torch.empty(BATCH, outside)))
            self.pairs.append((gradient.T, given, torch.empty(outside, inside)))
            if number:
                self.pairs.append((gradient, weight, torch.empty(BATCH, inside)))
        self.operations = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in self.pairs)

    def __call__(self, steps: int) -> float:
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(steps):
                for one, other, result in self.pairs:
                    torch.mm(one, other, out=result)
        return (time.perf_counter() - started) / steps


def dropout_masks(steps: int) -> float:
    """Seconds of the two masks that dropout draws."""
    outputs = [torch.randn(BATCH, 128), torch.randn(BATCH, 64)]
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(steps):
            for each in outputs:
                torch.empty_like(each).bernoulli_(0.9)
    return (time.perf_counter() - started) / steps


def adam_kernel(steps: int) -> float:
    """Seconds of the fused Adam kernel alone, with lists that are ready."""
    parameters = [item.detach() for item in network(0.1).parameters()]
    like = [[torch.full_like(item, 1e-4) for item in parameters] for _ in range(3)]
    counts = [torch.ones(()) for _ in parameters]
    started = time.perf_counter()
    for _ in range(steps):
        torch._fused_adam_(
            parameters,
            *like,
            [],
            counts,
            lr=1e-3,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )
    return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, one thread, {versions}")
    print(f"medians of {asked.rounds} rounds of {asked.steps} steps\n")
    clocks, products, tightest = Clocks(), Products(), Tightest()
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "clocked").mkdir()
        (Path(name) / "plain").mkdir()
        clocked, plain = full_run(Path(name) / "clocked", clocks), full_run(Path(name) / "plain", None)
        for turn in range(asked.rounds + 1):
            clocks.seconds.clear()
            times = {
                "step, with clocks": steps_of(clocked, asked.steps),
                "a step of trainctl": steps_of(plain, asked.steps),
                "a step of the tightest loop": tightest(asked.steps),
                "its matrix products alone": products(asked.steps),
                "its two dropout masks alone": dropout_masks(asked.steps),
                "the fused Adam kernel alone": adam_kernel(asked.steps),
            }
            times |= {part: seconds / asked.steps for part, seconds in clocks.seconds.items()}
            times["the loop itself, and the guard's copy of the random state"] = (
                times["step, with clocks"] - sum(clocks.seconds.values()) / asked.steps
            )
            if turn:
                for part, seconds in times.items():
                    found[part].append(seconds * 1e6)
    whole = statistics.median(found["step, with clocks"])
    print("| part | µs a step | share |\n|---|---|---|")
    for part in (*clocks.seconds, "the loop itself, and the guard's copy of the random state"):
        microseconds = statistics.median(found[part])
        print(f"| {part} | {microseconds:.0f} | {microseconds / whole:.0%} |")
    print(f"| together | {whole:.0f} | |\n\n| beside | µs |\n|---|---|")
    for part in (
        "a step of trainctl",
        "a step of the tightest loop",
        "its matrix products alone",
        "its two dropout masks alone",
        "the fused Adam kernel alone",
    ):
        print(f"| {part} | {statistics.median(found[part]):.0f} |")
    ratios = sorted(
        other / ours
        for ours, other in zip(found["a step of trainctl"], found["a step of the tightest loop"], strict=True)
    )
    rate = products.operations / statistics.median(found["its matrix products alone"]) / 1e3
    print(f"\ntrainctl's speed to the tightest loop's: {statistics.median(ratios):.3f}", end=" ")
    print(f"({ratios[0]:.3f} to {ratios[-1]:.3f}); the products run at {rate:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
