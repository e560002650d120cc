"""The cost of a sweep: a few steps of each distinct shape, measured, and added up over its jobs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trainctl.config.settings import Component, Config
from trainctl.errors import TrainctlError
from trainctl.sweep.checking import Checked
from trainctl.sweep.ledger import Job
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
        memory: bytes of the process at its largest.
        device_memory: bytes on the GPU at their largest.
        checkpoint: bytes of a checkpoint.
        parameters: of the model.
        error: why a job of this shape fails, if it does; the other values are 0 then.
        exit_code: of that failure.
    """

    build: float = 0.0
    step: float = 0.0
    evaluation: float = 0.0
    batches: int = 0
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
        seconds: the duration of each job.
        disk: the bytes of each job.
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
    """

    shapes: tuple[Shape, ...]
    places: WorkerSlots
    seconds: float
    memory: int
    device_memory: int
    disk: int
    failing: tuple[tuple[int, str], ...] = field(default=())


def make_plan(checked: Checked) -> Plan:
    """Measure each distinct shape among the jobs and add up. Nothing of the training is kept."""
    configs, jobs = checked.configs, checked.jobs
    slots = choose_slots(configs, len(jobs))
    groups: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        groups.setdefault(shape_key(config), []).append(index)
    start_server()
    shapes = [_shape(members, jobs, configs, slots) for members in groups.values()]
    seconds = {job: each for shape in shapes for job, each in zip(shape.jobs, shape.seconds, strict=False)}
    good = [shape.measured for shape in shapes if shape.measured.error is None]
    failing = [(job, shape.measured.error) for shape in shapes for job in shape.jobs if shape.measured.error]
    return Plan(
        shapes=tuple(shapes),
        places=slots,
        seconds=_until_the_last([seconds.get(job.number, 0.0) for job in jobs], slots.count),
        memory=slots.count * max((each.memory for each in good), default=0),
        device_memory=max((each.device_memory for each in good), default=0)
        * (1 if slots.devices else slots.count),
        disk=sum(sum(shape.disk) for shape in shapes),
        failing=tuple((job, error or "") for job, error in failing),
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

    train = config.train.model_dump(exclude={"epochs", "max_steps", "patience", "min_delta", "monitor"})
    values = [
        part(config.model, numbers=True),
        part(config.dataset, numbers=True),
        part(config.loader, numbers=True),
        part(config.optim, numbers=False),
        part(config.loss, numbers=False),
        part(config.scheduler, numbers=True),
        [config.loop.name, config.device, config.threads, config.deterministic],
        train,
        config.guard.model_dump(),
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _shape(
    members: Sequence[int], jobs: Sequence[Job], configs: Sequence[Config], slots: WorkerSlots
) -> Shape:
    measured = _measure(jobs[members[0]].files["config.yaml"], slots)
    common = set.intersection(*(set(jobs[index].label.split(" ")) for index in members))
    words = " ".join(word for word in jobs[members[0]].label.split(" ") if word in common)
    numbers = tuple(jobs[index].number for index in members)
    if measured.error is not None:
        return Shape(words or "all", numbers, measured)
    seconds, disk = [], []
    for index in members:
        steps, epochs = _length(configs[index], measured.batches)
        seconds.append(measured.build + steps * measured.step + (epochs + 1) * measured.evaluation)
        saving = configs[index].checkpoint
        kept = min(saving.keep_last + saving.keep_best, max(1, epochs))
        disk.append(kept * measured.checkpoint + steps * METRICS_LINE)
    return Shape(words or "all", numbers, measured, tuple(seconds), tuple(disk))


def _length(config: Config, batches: int) -> tuple[int, int]:
    """The steps and epochs of a run with ``batches`` steps an epoch."""
    train = config.train
    lengths = [train.epochs * batches if train.epochs else math.inf, train.max_steps or math.inf]
    steps = int(min(lengths))
    return steps, -(-steps // batches)


def _until_the_last(seconds: Sequence[float], workers: int) -> float:
    """The end of the last job if each takes the first free worker."""
    free = [0.0] * workers
    for each in seconds:
        first = free.index(min(free))
        free[first] += each
    return max(free)


def _measure(config: str, slots: WorkerSlots) -> Measured:
    """Measure in a process of its own, so that its memory is that of this shape."""
    try:
        values = ask(
            "trainctl.sweep.planning:measure",
            *(config, slots.threads),
            timeout=_TOO_LONG,
            environment=slots.environment(0),
        )
    except ProcessDiedError as error:
        return Measured(error=f"its process {error}", exit_code=1)
    return Measured(**values)


def measure(text: str, threads: int) -> dict[str, Any]:
    """Build a run, take some steps, evaluate; returns the values of a :class:`Measured`. In a worker."""
    import resource
    import time
    from dataclasses import replace

    import torch

    from trainctl.config.stored_config import parse_config
    from trainctl.training.build import build
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
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "device_memory": torch.cuda.max_memory_allocated() if cuda else 0,
            "checkpoint": sum(tensor.numel() * tensor.element_size() for tensor in tensors) + 4096,
            "parameters": built.parameters,
        }
    except TrainctlError as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
