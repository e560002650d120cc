"""``train.capture``: decides before the first step whether it is launched as one CUDA graph."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainctl.config.settings import Config
from trainctl.data.inputs import Inputs
from trainctl.errors import ConfigError
from trainctl.registry.constraints import show
from trainctl.registry.protocols import Batch
from trainctl.training.failures import line_of
from trainctl.training.run import Run
from trainctl.training.runtime import random_state_kept
from trainctl.training.steps.captured import WARM, CapturedStep, CudaGraph
from trainctl.training.steps.choose import Step
from trainctl.training.window import Window

_ENOUGH = 200
_ROUNDS, _STEPS, _SECONDS = 3, 20, 0.2
_WORTH = 0.95


def obstacle(config: Config, device: torch.device, optimizer: Any) -> str | None:
    """Why the step of this run cannot be captured, where that is known without a trial; or None."""
    guard = config.guard
    if device.type != "cuda":
        return f"graphs are CUDA's, and the device is {device}"
    if config.loop.name != "optimizer":
        return f"loop={config.loop.name} is not the standard loop"
    if config.compile is not False:
        return f"with compile={show(config.compile)} the compiler launches the model"
    if config.train.activation_checkpoint:
        return "train.activation_checkpoint sets random numbers back within a step"
    if config.train.micro_batch == "auto":
        return "train.micro_batch=auto may cut batches smaller at any step"
    if config.profile:
        return "profile=true takes the step apart"
    if not Window.is_possible(optimizer):
        return f"optim={config.optim.name} is not fused (sgd, sgd_momentum, adam and adamw are)"
    if guard.gradients:
        return "guard.gradients=true looks at the gradients of each step"
    if guard.loss and guard.skip:
        return f"guard.skip={guard.skip} waits for each loss"
    return None


def capture(
    config: Config, run: Run, plain: Step, step: Step, batch: Batch, recorded: str | None
) -> tuple[Step, dict[str, str], list[str]]:
    """``step`` launched as one graph, where ``train.capture`` asks for it; choices to record, and notices.

    ``auto`` takes a few steps both ways on copies of model and optimizer, and chooses the faster. A resumed
    run keeps the ``recorded`` choice.

    Args:
        plain: the step without its guard, for the trial.
        batch: one of full size.

    Raises ConfigError for ``train.capture=true`` where the step cannot be captured.
    """
    asked, device = config.train.capture, batch.targets.device
    if not _is_asked(config, device):
        return step, {}, []
    reason, times = obstacle(config, device, run.optimizer), ""
    if isinstance(batch.inputs, Inputs):
        reason = "samples have several inputs"
    if asked is True and reason is not None:
        raise ConfigError(f"train.capture=true: {reason}", "use train.capture=auto, or false")
    if asked == "auto" and reason is None:
        if recorded is None:
            reason, times = _tried(run, plain, batch)
        elif recorded != "captured":
            reason = "chosen when the run began"
    if reason is not None:
        text, word = _without(reason)
        return step, {"capture": word}, [text]

    def failed(reason: str) -> None:
        run.announce("capture", *_without(reason))

    reuse = getattr(run.train_loader, "reuse", None)
    reused = None if reuse is None else reuse()
    if reused is not None:
        run.batches = reused.batches
    taken = CapturedStep(step.take, batch.count, CudaGraph(device), failed, reused=reused)
    said = f"each step is launched as one CUDA graph{times}"
    return Step(taken, f"{step.name}, CUDA graph"), {"capture": "captured"}, [said]


def _is_asked(config: Config, device: torch.device) -> bool:
    return config.train.capture is True or (config.train.capture == "auto" and device.type == "cuda")


def _without(reason: str) -> tuple[str, str]:
    return f"steps are not captured as a CUDA graph: {reason}", f"not captured: {reason}"


def _tried(run: Run, plain: Step, batch: Batch) -> tuple[str | None, str]:
    """Why not to capture, or None; and the times of both ways."""
    left = run.total_steps - run.state.step
    if left < _ENOUGH:
        return f"{left} steps are too few for it to pay", ""
    try:
        with random_state_kept(batch.targets.device):
            eager, captured = _measured(run, plain.take, batch)
    except Exception as error:  # whatever a model, or the recording of it, may raise
        return line_of(error), ""
    times = f"{captured * 1e6:.0f} µs a step captured, {eager * 1e6:.0f} µs without"
    return (None, f" ({times})") if captured < _WORTH * eager else (f"it is no faster ({times})", "")


def _measured(run: Run, plain: Callable[..., Tensor], batch: Batch) -> tuple[float, float]:
    """Seconds a step one operation at a time, and as a graph. Raises whatever the recording does."""
    model, criterion, optimizer = copy.deepcopy((run.model, run.criterion, run.optimizer))
    arguments = model.train(), criterion, optimizer, batch.inputs, batch.targets, run.precision
    failures: list[str] = []
    graph = CudaGraph(batch.targets.device)
    step = CapturedStep(plain, batch.count, graph, failures.append)
    for _ in range(WARM + 1):
        step(*arguments)
    if failures:
        raise RuntimeError(failures[0])

    def seconds(taken: Callable[..., Tensor], steps: int) -> float:
        graph.wait()
        started = time.perf_counter()
        for _ in range(steps):
            taken(*arguments)
        graph.wait()
        return (time.perf_counter() - started) / steps

    # A step of a large model may take a second: fewer of them tell the ways apart.
    steps = max(1, min(_STEPS, int(_SECONDS / seconds(step, 1))))
    fastest: dict[Callable[..., Tensor], float] = {plain: float("inf"), step: float("inf")}
    for _ in range(_ROUNDS):
        for each in fastest:
            fastest[each] = min(fastest[each], seconds(each, steps))
    return fastest[plain], fastest[step]
