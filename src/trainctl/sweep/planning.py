"""The cost of a sweep: a few steps of each distinct shape, measured, and added up over its jobs."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainctl.config.settings import Component, Config
from trainctl.errors import TrainctlError
from trainctl.sweep.checking import Checked
from trainctl.sweep.worker_pool import ProcessDiedError, ask, start_server
from trainctl.sweep.worker_slots import WorkerSlots, choose_slots

METRICS_LINE = 90
"""Bytes of a step's line in metrics.jsonl, about."""
_TOO_LONG = 600.0


@dataclass(frozen=True)
class Measured:
    """One shape, measured in a process of its own.

    Attributes:
        build: seconds until the first step.
        step: seconds a step, the median of those measured.
        evaluation: seconds an evaluation of the validation split.
        batches: steps an epoch.
        auto_epochs: what ``train.epochs=auto`` stands for.
        memory, device_memory: the most bytes of the process, and on the GPU.
        checkpoint: bytes of a checkpoint.
        parameters: of the model.
        error: why a job of this shape fails, if it does; the other values are 0 then.
        exit_code: of that failure.
    """

    build: float = 0.0
    step: float = 0.0
    evaluation: float = 0.0
    batches: int = 0
    auto_epochs: int = 0
    memory: int = 0
    device_memory: int = 0
    checkpoint: int = 0
    parameters: int = 0
    error: str | None = None
    exit_code: int = 0


@dataclass(frozen=True)
class Shape:
    """Jobs that cost the same a step.

    Attributes:
        words: the overrides that its jobs share, for people.
        jobs: their numbers.
        seconds, disk: the duration and the bytes of each job; empty where they fail.
    """

    words: str
    jobs: tuple[int, ...]
    measured: Measured
    seconds: tuple[float, ...] = ()
    disk: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The cost of a sweep.

    Attributes:
        seconds: from the first job's start to the last one's end.
        memory, device_memory: bytes, all workers together.
        disk: bytes, all jobs together.
        failing: the number of each job that would fail, and why.
    """

    shapes: tuple[Shape, ...]
    places: WorkerSlots
    seconds: float
    memory: int
    device_memory: int
    disk: int
    failing: tuple[tuple[int, str], ...]


def make_plan(checked: Checked) -> Plan:
    """Measure each distinct shape among the jobs and add up. Nothing of the training is kept."""
    slots = choose_slots(checked.configs, len(checked.jobs))
    groups: dict[str, list[int]] = {}
    for index, config in enumerate(checked.configs):
        groups.setdefault(shape_key(config), []).append(index)
    start_server()
    shapes = [_shape(members, checked, slots) for members in groups.values()]
    seconds = {job: each for shape in shapes for job, each in zip(shape.jobs, shape.seconds, strict=False)}
    measured = [shape.measured for shape in shapes]
    on_a_device = 1 if slots.devices else slots.count
    return Plan(
        shapes=tuple(shapes),
        places=slots,
        seconds=_until_the_last([seconds.get(job.number, 0.0) for job in checked.jobs], slots.count),
        memory=slots.count * max(each.memory for each in measured),
        device_memory=on_a_device * max(each.device_memory for each in measured),
        disk=sum(sum(shape.disk) for shape in shapes),
        failing=tuple(
            (job, shape.measured.error) for shape in shapes for job in shape.jobs if shape.measured.error
        ),
    )


def shape_key(config: Config) -> str:
    """Equal for jobs whose steps cost the same: they differ only in numbers that change no shape."""

    def part(component: Component, *, numbers: bool) -> Any:
        kept = {
            key: value
            for key, value in component.arguments.items()
            if numbers or isinstance(value, bool | str) or not isinstance(value, int | float)
        }
        return [component.name, kept, component.common if numbers else {}]

    values = [
        part(config.model, numbers=True),
        part(config.dataset, numbers=True),
        part(config.loader, numbers=True),
        part(config.optim, numbers=False),
        part(config.loss, numbers=False),
        part(config.scheduler, numbers=True),
        [config.loop.name, config.device, config.devices, config.threads, config.deterministic],
        config.train.model_dump(exclude={"epochs", "max_steps", "patience", "min_delta", "monitor"}),
        config.guard.model_dump(),
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _shape(members: Sequence[int], checked: Checked, slots: WorkerSlots) -> Shape:
    jobs = [checked.jobs[index] for index in members]
    measured, devices = _measure(jobs[0].files["config.yaml"], slots), checked.configs[members[0]].devices
    if isinstance(devices, int):
        measured = replace(measured, memory=devices * measured.memory)
    common = set.intersection(*(set(job.label.split(" ")) for job in jobs))
    words = " ".join(word for word in jobs[0].label.split(" ") if word in common) or "all"
    numbers = tuple(job.number for job in jobs)
    if measured.error is not None:
        return Shape(words, numbers, measured)
    seconds, disk = [], []
    for config in [checked.configs[index] for index in members]:
        train, saving = config.train, config.checkpoint
        passes = measured.auto_epochs if isinstance(train.epochs, str) else train.epochs
        lengths = [passes and passes * measured.batches, train.max_steps]
        steps = min(length for length in lengths if length)
        epochs = math.ceil(steps / measured.batches)
        seconds.append(measured.build + steps * measured.step + (epochs + 1) * measured.evaluation)
        kept = min(saving.keep_last + saving.keep_best, max(1, epochs))
        disk.append(kept * measured.checkpoint + steps * METRICS_LINE)
    return Shape(words, numbers, measured, tuple(seconds), tuple(disk))


def _until_the_last(seconds: Sequence[float], workers: int) -> float:
    """The end of the last job if each takes the first free worker."""
    free = [0.0] * workers
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def _measure(config: str, slots: WorkerSlots) -> Measured:
    """Measure in a process of its own, so that its memory is that of this shape."""
    target, environment = "trainctl.sweep.planning:measure", slots.environment(0)
    try:
        return Measured(**ask(target, *(config, slots.threads), timeout=_TOO_LONG, environment=environment))
    except ProcessDiedError as error:
        return Measured(error=f"its process {error}", exit_code=1)


def measure(text: str, threads: int) -> dict[str, Any]:
    """Build a run, take some steps, evaluate; returns the values of a :class:`Measured`. In a worker."""
    import resource
    import time

    import torch

    from trainctl.config.stored_config import parse_config
    from trainctl.training.build import auto_epochs, build
    from trainctl.training.hooks.timing import Timing

    torch.set_num_threads(threads)
    try:
        config = parse_config(text, "the job", lambda named: None)
        started = time.perf_counter()
        short = config.train.model_copy(update={"max_steps": Timing.most, "epochs": None, "patience": None})
        built = build(replace(config, train=short))
        timing = Timing(built.device)
        built.run.attach([timing])
        ready = time.perf_counter() - started
        try:
            built.fit(built.run)
        finally:
            built.close()
        content = built.snapshot()
        tensors = [*content.model.values(), *content.training.values()]
        cuda = built.device.type == "cuda"
        return {
            "build": ready,
            "step": timing.step_seconds,
            "evaluation": timing.evaluation_seconds,
            "batches": len(built.run.train_loader),
            "auto_epochs": auto_epochs(built.data, len(built.run.train_loader)),
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "device_memory": torch.cuda.max_memory_allocated() if cuda else 0,
            "checkpoint": sum(tensor.nbytes for tensor in tensors) + 4096,
            "parameters": built.parameters,
        }
    except TrainctlError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
