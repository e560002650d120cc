"""``train.capture``: whether the step is launched as one CUDA graph, found out before the first step."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from trainctl.config.settings import Config
from trainctl.errors import ConfigError
from trainctl.registry.constraints import show
from trainctl.training.hooks.base import Hook
from trainctl.training.hooks.window import Window
from trainctl.training.loop import Run
from trainctl.training.runtime import random_state_kept
from trainctl.training.steps.captured import WARM, CapturedStep, CudaGraph, Graph, reason_of

Tell = Callable[[str, str], None]
"""Told what people must know, and in a word how the step runs: ``captured``, or why not."""

_ENOUGH = 200
_ROUNDS, _STEPS = 3, 20
_WORTH = 0.95


def obstacle(config: Config, device: torch.device, optimizer: Any) -> str | None:
    """Why the step of this run cannot be captured, as far as that is known before it is tried."""
    guard = config.guard
    if device.type != "cuda":
        return f"graphs are CUDA's, and the device is {device}"
    if config.loop.name != "optimizer":
        return f"loop={config.loop.name} is there to be read"
    if config.compile is not False:
        return f"with compile={show(config.compile)} the compiler launches the model"
    if config.profile:
        return "profile=true takes the step apart"
    if not Window.is_possible(optimizer):
        return f"optim={config.optim.name} is not fused (sgd, sgd_momentum, adam and adamw are)"
    if guard.gradients:
        return "guard.gradients=true looks at the gradients of each step"
    if guard.loss and guard.skip:
        return f"guard.skip={guard.skip} waits for each loss"
    return None


def refuse(config: Config, device: torch.device, optimizer: Any) -> None:
    """Raise ConfigError for ``train.capture=true`` where it is known that the step cannot be captured."""
    if config.train.capture is True and (reason := obstacle(config, device, optimizer)) is not None:
        raise ConfigError(f"train.capture=true: {reason}", "use train.capture=auto, or false")


class Capture(Hook):
    """Has the step launched as one graph; says so, or why not.

    ``auto`` takes a few steps both ways on copies of model and optimizer, and chooses the faster: nothing of
    them remains. The choice is kept in checkpoints, so a run that is continued goes on in the same way.

    Args:
        capture: whether to: ``auto`` measures it.
        obstacle: why it cannot be done, where that is known already.
        size: samples of a whole batch.
        device: the run's.
        graph: makes what records and launches on a device.
    """

    about = "capture"

    def __init__(
        self,
        capture: bool | Literal["auto"],
        obstacle: str | None,
        size: int,
        device: torch.device,
        graph: Callable[[torch.device], Graph] = CudaGraph,
    ) -> None:
        self.capture, self.obstacle, self.size = capture, obstacle, size
        self.device, self.graph = device, graph
        self.tell: Tell = lambda text, how: None
        self.chosen: str | None = None

    def start(self, run: Run) -> None:
        plain = run.step.step if isinstance(run.step, CapturedStep) else run.step
        run.step = plain
        reason, times = self.obstacle, ""
        if reason is None and self.capture == "auto":
            if self.chosen is None:
                reason, times = self._tried(run)
            elif self.chosen == "eager":
                reason = "chosen when the run began"
        self.chosen = "captured" if reason is None else "eager"
        if reason is not None:
            self._without(reason)
            return
        self.tell(f"each step is launched as one CUDA graph{times}", "captured")
        run.step = CapturedStep(plain, self.size, self.graph(self.device), self._without)

    def _without(self, reason: str) -> None:
        self.tell(f"steps are not captured as a CUDA graph: {reason}", f"not captured: {reason}")

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen = state["chosen"]

    # ---------------------------------------------------------------- the choice

    def _tried(self, run: Run) -> tuple[str | None, str]:
        """Why not to capture, or None; and the times that say so."""
        left = run.total_steps - run.state.step
        if left < _ENOUGH:
            return f"{left} steps are too few for it to pay", ""
        try:
            with random_state_kept(self.device):
                eager, captured = self._measured(run)
        except Exception as error:  # whatever a model, or the recording of it, may raise
            return reason_of(error), ""
        times = f"{captured * 1e6:.0f} µs a step captured, {eager * 1e6:.0f} µs without"
        return (None, f" ({times})") if captured < _WORTH * eager else (f"it is no faster ({times})", "")

    def _measured(self, run: Run) -> tuple[float, float]:
        """Seconds a step one operation at a time, and as a graph. Raises whatever the recording does."""
        inputs, targets = next(iter(run.train.batches()))
        model, criterion, optimizer = copy.deepcopy((run.model, run.criterion, run.optimizer))
        arguments = model.train(), criterion, optimizer, inputs, targets, run.precision
        failures: list[str] = []
        graph = self.graph(self.device)
        step = CapturedStep(run.step, len(targets), graph, failures.append)
        for _ in range(WARM + 1):
            step(*arguments)
        if failures:
            raise RuntimeError(failures[0])
        fastest: dict[Callable[..., Tensor], float] = {run.step: float("inf"), step: float("inf")}
        for _ in range(_ROUNDS):
            for each in fastest:
                graph.wait()
                started = time.perf_counter()
                for _ in range(_STEPS):
                    each(*arguments)
                graph.wait()
                fastest[each] = min(fastest[each], (time.perf_counter() - started) / _STEPS)
        return fastest[run.step], fastest[step]
