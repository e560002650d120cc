"""The parts of benchmarks/gpu.py that train in their own process: steps a second, and a large model."""

from __future__ import annotations

import argparse
import gc
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_rows import Rows, spread

from trainctl.config.composer import Composer
from trainctl.config.overrides import to_hydra
from trainctl.training.construct import build_model
from trainctl.training.prepare_data import build_data
from trainctl.training.runtime import choose_device

sys.path.insert(0, str(Path(__file__).resolve().parent / "ways"))
from work import network

WORKS = {
    "mnist_mlp": ("MNIST MLP", ("model=mlp", "model.hidden=[128,64]", "model.dropout=0.1")),
    "mnist_lenet": ("LeNet", ("model=lenet",)),
}
EAGER, CAPTURED = "trainctl, step by step", "trainctl, CUDA graph"
OURS = {
    CAPTURED: ("train.capture=true",),
    EAGER: ("train.capture=false",),
    "trainctl, CUDA graph, bf16": ("train.capture=true", "train.precision=bf16"),
    "trainctl, bf16": ("train.capture=false", "train.precision=bf16"),
    "trainctl, guard=full": ("train.capture=false", "guard=full"),
}
# A run on several devices, in a group of one: what the group costs a step.
GROUPED = {
    "trainctl, strategy=ddp, one rank": ("train.capture=false", "strategy=ddp"),
    "trainctl, strategy=fsdp, one rank": ("train.capture=false", "strategy=fsdp"),
}


def compose(asked: argparse.Namespace, *words: str) -> Any:
    """A config of trainctl."""
    fixed = [
        f"device={asked.device}",
        "dataset.val=0",
        "lr=1e-3",
        "batch_size=64",
        "scheduler=none",
        "optim=adam",
    ]
    fixed += ["threads=1"] if asked.device == "cpu" else []
    return Composer().compose([to_hydra(word) for word in (*fixed, *words)]).config


class Laps:
    """Seconds between two of many steps; a step is any call."""

    def __init__(self, device: Any, warm: int, steps: int) -> None:
        self.device, self.warm, self.last, self.taken = device, warm, warm + steps, 0
        self.begun = self.seconds = 0.0

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self) -> bool:
        """After a step; True when there have been enough."""
        self.taken += 1
        if self.taken == self.warm:
            self.begun = self.now()
        if self.taken == self.last:
            self.seconds = self.now() - self.begun
        return self.taken >= self.last


def ours(config: Any, data: Any, folder: Path, laps: Laps, group: Any = None) -> Any:
    """Train as trainctl does: guard, every loss to metrics.jsonl. Returns what was built."""
    from trainctl.training.build import build
    from trainctl.training.hooks.metrics_log import MetricsLog
    from trainctl.training.run import Hook

    class Clock(Hook):
        def step(self, run: Any, loss: Any) -> None:
            laps()

    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{time.monotonic_ns()}.jsonl"
    built = build(config, data, group=group)
    metrics = MetricsLog(log)
    built.run.attach([metrics, Clock()])
    announced: list[str] = []
    built.run.announce = lambda topic, text, word: announced.append(text)
    built.fit(built.run)
    metrics.close()
    if announced:  # such as that the step could not be captured after all
        raise RuntimeError(announced[0])
    return built


def by_hand(model: Any, inputs: Any, targets: Any, laps: Laps) -> Any:
    """The tightest loop that one writes: resident tensors, fused Adam, no log. Returns the optimizer."""
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    model.train()
    while True:
        for index in torch.randperm(len(inputs), device=laps.device).split(64):
            loss = criterion(model(inputs[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if laps():
                return optimizer


def captured_by_hand(model: Any, inputs: Any, targets: Any, laps: Laps) -> None:
    """The tightest loop with its step in a CUDA graph, as torch's documentation shows it."""
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)
    model.train()
    chosen = torch.arange(64, device=laps.device)

    def step() -> None:
        criterion(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()

    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    while True:
        for index in torch.randperm(len(inputs), device=laps.device).split(64):
            if len(index) == 64:
                chosen.copy_(index)
                graph.replay()
                if laps():
                    return


@contextmanager
def alone() -> Iterator[Any]:
    """A group of this one process: NCCL's on CUDA."""
    from torch.distributed import TCPStore

    from trainctl.distributed.context import World
    from trainctl.distributed.group import joined

    with joined(World(0, 1, 0, 1), 60.0, TCPStore("127.0.0.1", 0, 1, is_master=True)) as group:
        yield group


def with_lightning(model: Any, inputs: Any, targets: Any, laps: Laps) -> None:
    """Lightning's Trainer with its logger, checkpoints and bar off."""
    import warnings

    warnings.filterwarnings("ignore")
    import lightning
    from torch.utils.data import DataLoader, TensorDataset

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_of = model, torch.nn.CrossEntropyLoss()

        def training_step(self, batch: Any, number: int) -> Any:
            return self.loss_of(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)

    class Timing(lightning.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            laps()

    off = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    trainer = lightning.Trainer(
        max_steps=laps.last,
        accelerator="gpu" if laps.device.type == "cuda" else "cpu",
        devices=1,
        callbacks=[Timing()],
        **dict.fromkeys(off, False),
    )
    trainer.fit(Module(), DataLoader(TensorDataset(inputs, targets), batch_size=64, shuffle=True))


def steps(asked: argparse.Namespace, rows: Rows) -> None:
    """Steady steps a second of each way, in turn."""
    device = choose_device(asked.device)
    warm, counted, rounds = (10, 20, 1) if asked.quick else (60, 400, 3)

    def steps_of(way: str) -> int:
        return counted * (10 if "graph" in way and not asked.quick else 1)  # they take a tenth of the time

    root = (f"dataset.root={asked.root}", "dataset=mnist")
    data = build_data(compose(asked, *root).dataset)
    pixels = data.train.inputs.to(device)
    inputs = torch.cat([data.transform.to(device)(part) for part in pixels.split(8192)])
    targets = data.train.targets.to(device)
    own = {way: words for way, words in OURS.items() if device.type == "cuda" or "graph" not in way}
    base = next(iter(own))
    speeds: dict[str, dict[str, list[float]]] = {work: {} for work in WORKS}
    failed: dict[str, str] = {}

    def attempt(work: str, way: str, take: Callable[[Laps], object]) -> None:
        if f"{work}, {way}" in failed:
            return
        laps = Laps(device, warm, steps_of(way))
        try:
            take(laps)
            speeds[work].setdefault(way, []).append(steps_of(way) / laps.seconds)
        except Exception as error:
            failed[f"{work}, {way}"] = f"- {WORKS[work][0]}, {way}: {type(error).__name__}: {error}"[:300]
        rows.put(rows=[*step_rows(speeds, base)], notes=list(failed.values()))

    for _ in range(rounds):
        for work, (_, words) in WORKS.items():
            for way, more in own.items():
                config = compose(asked, *root, *words, *more, f"train.max_steps={warm + steps_of(way)}")
                attempt(work, way, partial(ours, config, data, asked.folder / "logs"))
            for way, more in GROUPED.items():
                config = compose(asked, *root, *words, *more, f"train.max_steps={warm + steps_of(way)}")
                with alone() as group:
                    attempt(work, way, partial(ours, config, data, asked.folder / "logs", group=group))
            by_hands = {"tightest by hand": by_hand}
            if device.type == "cuda":
                by_hands["by hand, CUDA graph"] = captured_by_hand
            for way, take in by_hands.items():
                attempt(work, way, partial(take, network(work).to(device), inputs, targets))
            if find_spec("lightning") is not None:
                on_cpu = inputs.cpu(), targets.cpu()
                attempt(work, "Lightning, bare", partial(with_lightning, network(work), *on_cpu))
    if failed:
        sys.exit(next(iter(failed.values())))


def step_rows(speeds: dict[str, dict[str, list[float]]], base: str) -> Iterator[dict[str, Any]]:
    """A row a work and way, with how many times as fast ``base`` is."""
    for work, found in speeds.items():
        for way, each in found.items():
            ratios = [a / b for a, b in zip(found.get(base, []), each, strict=False)]
            yield {
                "work": WORKS[work][0],
                "way": way,
                "steps/s": f"{statistics.median(each):,.0f}",
                f"{base} is": spread(ratios),
            }


def peak(device: Any) -> float:
    """The most memory so far, in GiB: the device's, or the process's on the CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device) / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def large(asked: argparse.Namespace, rows: Rows) -> None:
    """A model of 135 million parameters: memory, a step, a checkpoint; each beside a loop by hand."""
    device = choose_device(asked.device)
    warm, counted = (3, 5) if asked.quick else (10, 50)
    hidden = "[256,256]" if asked.quick else "[8192,8192,7488]"
    words = ("dataset=synthetic", "dataset.shape=[784]", "dataset.samples=6400", f"model.hidden={hidden}")
    words = (*words, f"train.max_steps={warm + counted}")
    data = build_data(compose(asked, *words).dataset)

    def fresh() -> Laps:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        return Laps(device, warm, counted)

    def row(way: str, laps: Laps, most: float, saving: tuple[str, str] = ("", "")) -> None:
        step = f"{1e3 * laps.seconds / counted:.2f}"
        names = ("checkpoint, training waits", "checkpoint, until it is on the disk")
        rows.add(
            way=way,
            **{"ms a step": step, "memory, GiB": f"{most:.2f}"},
            **dict(zip(names, saving, strict=True)),
        )

    def trainctl(way: str, *more: str) -> None:
        laps = fresh()
        built = ours(compose(asked, *words, *more), data, asked.folder / "logs", laps)
        most = peak(device)
        rows.put(notes=[f"{built.parameters:,} parameters, Adam, float32 weights."])
        is_saved = way == EAGER  # it is the same checkpoint in every way
        row(way, laps, most, saved(built, asked.folder / "checkpoints", laps) if is_saved else ("", ""))

    def hand() -> None:
        laps = fresh()
        model = build_model(compose(asked, *words).model, data.input_shape, data.output_size).to(device)
        inputs = data.transform.to(device)(data.train.inputs.to(device))
        optimizer = by_hand(model, inputs, data.train.targets.to(device), laps)
        most, started = peak(device), laps.now()
        with (asked.folder / "by_hand.pt").open("wb") as file:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        seconds = f"{laps.now() - started:.2f} s"
        (asked.folder / "by_hand.pt").unlink()
        row("by hand, torch.save", laps, most, (seconds, seconds))

    failed = []
    tries: list[tuple[str, Callable[[], None]]] = [("by hand", hand)]
    tries += [(way, lambda way=way: trainctl(way, *OURS[way])) for way in OURS]  # type: ignore[misc]
    for way, take in tries:
        if device.type != "cuda" and "graph" in way:
            continue
        try:
            take()
        except Exception as error:
            failed.append(f"- {way}: {type(error).__name__}: {error}"[:400])
            rows.put(notes=[*rows.content.get("notes", []), failed[-1]])
    if failed:
        sys.exit(failed[0])


def saved(built: Any, folder: Path, laps: Laps) -> tuple[str, str]:
    """Save as a run does: seconds that training waits for the copy, and until it is written and read back."""
    from trainctl.checkpoint.format import ready_to_save, save_checkpoint, verify_checkpoint

    folder.mkdir(exist_ok=True)
    started = laps.now()
    content = ready_to_save(built.snapshot(), built.buffers)
    copied = laps.now() - started
    path = save_checkpoint(folder, content, f"step-{time.monotonic_ns()}")
    verify_checkpoint(path)
    whole = laps.now() - started
    for file in path.iterdir():
        file.unlink()
    return f"{copied:.2f} s", f"{whole:.2f} s"
