"""The time of a training step by its parts, on a copy of model and optimizer."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from trainctl.analysis.trace_report import Timing
from trainctl.checkpoint.snapshot import RandomStates
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.hooks.guard import Guard
from trainctl.training.run import Run

REST = "everything else"
BY_HAND = "backward and update"
_PHASES = ("forward", "loss", "zero_grad", "backward", "step", BY_HAND, REST)
_TIMED_STEPS = 5
_TIMED_SECONDS = 2.0


def spare_run(run: Run, step: Callable[..., Tensor]) -> Run:
    """A run on copies of model, criterion and optimizer, without the guard."""
    model, criterion, optimizer = copy.deepcopy((run.model, run.criterion, run.optimizer))
    hooks = [hook for hook in run.hooks if not isinstance(hook, Guard)]
    return replace(run, model=model, criterion=criterion, optimizer=optimizer, hooks=hooks, step=step)


def step_again(
    spare: Run,
    run: Run,
    batch: tuple[Tensor, Tensor],
    random_before: Mapping[str, Any],
    device: torch.device,
    first: float,
) -> tuple[Timing, float]:
    """Steps of ``spare`` on the same batch, from the parameters that ``run`` has now.

    The first one gives the loss after the step: with the same random numbers only the update differs. The
    others are timed. The random states of ``run`` are restored.
    """
    random_states = RandomStates(device)
    random_now = random_states.state_dict()
    spare.model.load_state_dict(run.model.state_dict())
    spare.call("start")
    wait = waiting(device)
    try:
        random_states.load_state_dict(random_before)
        parts = spare.model, spare.criterion, spare.optimizer
        loss_after = float(spare.step(*parts, *batch, spare.precision))
        times: list[dict[str, float]] = []
        started = time.perf_counter()
        while len(times) < _TIMED_STEPS and (not times or time.perf_counter() - started < _TIMED_SECONDS):
            clock = _Clock(wait)
            spare.step(
                _Timed(spare.model, clock, "forward"),
                _Timed(spare.criterion, clock, "loss"),
                _Timed(spare.optimizer, clock, "", zero_grad="zero_grad", step="step"),
                *batch,
                spare.precision,
            )
            times.append(clock.stopped())
    finally:
        random_states.load_state_dict(random_now)
    phases = [phase for phase in _PHASES if any(phase in each for each in times)]
    timing = Timing(
        phases={phase: median(each.get(phase, 0.0) for each in times) for phase in phases},
        total=median(sum(each.values()) for each in times),
        steps=len(times),
        first=first,
        synchronized=device.type != "cpu",
        clipping=any(isinstance(hook, ClipNorm) for hook in spare.hooks),
    )
    return timing, loss_after


def waiting(device: torch.device) -> Callable[[], None]:
    """Waits for the work queued on ``device``; nothing to do on the CPU."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


@dataclass
class _Clock:
    """Times the calls of one step, and the gaps between them."""

    wait: Callable[[], None]
    spans: list[tuple[str, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin = self.now()

    def now(self) -> float:
        self.wait()
        return time.perf_counter()

    def time(self, phase: str, call: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
        began = self.now()
        result = call(*inputs, **settings)
        self.spans.append((phase, began, self.now()))
        return result

    def stopped(self) -> dict[str, float]:
        """Seconds a phase. ``backward`` is called on the loss itself, so it is the gap after the loss."""
        end = self.now()
        steps = any(phase == "step" for phase, _, _ in self.spans)
        seconds: dict[str, float] = {}
        before, compared, stepped = self.begin, False, False
        for phase, began, ended in [*self.spans, ("", end, end)]:
            between = REST
            if compared and not stepped and phase != "zero_grad":
                between = "backward" if steps else BY_HAND
            seconds[between] = seconds.get(between, 0.0) + began - before
            if phase:
                seconds[phase] = seconds.get(phase, 0.0) + ended - began
            before, compared, stepped = ended, compared or phase == "loss", stepped or phase == "step"
        return seconds


class _Timed:
    """A proxy for a part of a run that times its call and the methods named."""

    def __init__(self, part: Any, clock: _Clock, called: str, **methods: str) -> None:
        self._part, self._clock, self._called, self._methods = part, clock, called, methods

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        return self._clock.time(self._called, self._part, *inputs, **settings)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        phase = self._methods.get(name)
        return found if phase is None else partial(self._clock.time, phase, found)
