"""Where the time of a step goes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainctl.paths import short_path
from trainctl.registry.protocols import Batch
from trainctl.runs import files
from trainctl.runs.record import RunRecord
from trainctl.training.display import Display
from trainctl.training.run import Hook, Run

log = logging.getLogger("trainctl")
PARTS = ("data", "forward", "backward", "optimizer", "hooks")
_WARM, _STEPS = 5, 20
_OPERATORS = 12
_WIDTH = 44
_BAR = 20


@dataclass(frozen=True)
class Operator:
    """An operator of torch: its own time a step, in microseconds, without that of operators it calls."""

    name: str
    microseconds: float
    calls: float


@dataclass(frozen=True)
class Profile:
    """The times of a run's steps.

    Attributes:
        steps: measured by the clock, without torch's profiler.
        parts: microseconds a step: making the batch, forward with the loss, backward with zero_grad and
            clipping, the optimizer, and the hooks.
        traced: steps under torch's profiler, which slows them down.
        operators: of the traced steps, the slowest first.
        device: ``cpu`` or ``cuda``; the times are of this device.
        trace: the file with every call, for chrome://tracing or ui.perfetto.dev.
    """

    steps: int
    parts: Mapping[str, float]
    traced: int
    operators: Sequence[Operator]
    device: str
    trace: Path


class Profiler(Hook):
    """Measures 20 steps by the clock, then 20 under torch.profiler, after five to warm up.

    The criterion's forward hook ends the forward pass, the optimizer's step pre-hook the backward pass. A
    loop that updates the parameters itself has no optimizer part. On CUDA the times are between events of the
    device. The traced steps lie in one epoch, so that no evaluation is among them; a short epoch or run has
    fewer. Nothing random is drawn.

    :func:`attach` makes it the last hook and :class:`StepEnd` the first: the time between them is that of the
    hooks, the time after it that of making the next batch. ``trace.json`` goes into ``folder``.
    """

    name = "profiler"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profile: Profile | None = None
        self._detaching: list[Callable[[], Any]] = []
        self._profiler: Any = None

    def start(self, run: Run) -> None:
        self._run = run
        self._device = next(run.model.parameters()).device
        left = run.total_steps - run.state.step
        self._warm = min(_WARM, left // 3)
        self._wanted = min(_STEPS, (left - self._warm) // 2)
        self._taken = self._traced = 0
        self._spans: list[tuple[str, Any, Any]] = []
        self._part, self._since = "", None
        if self._wanted < 1:
            return
        criterion, optimizer = run.criterion, run.optimizer
        on_detach = self._detaching.append
        on_detach(criterion.register_forward_hook(lambda *_: self.enter("backward")).remove)
        on_detach(optimizer.register_step_pre_hook(lambda *_: self.enter("optimizer")).remove)
        self.enter("data")

    def batch(self, run: Run, batch: Batch) -> None:
        if not self._detaching:
            return
        if self._taken == self._warm + self._wanted and self._profiler is None:
            self._begin_trace()
        self.enter("forward")

    def enter(self, part: str) -> None:
        """Count the time from here on as that of ``part``."""
        if not self._detaching or not self._run.model.training:
            return
        measures = self._warm <= self._taken < self._warm + self._wanted
        now = self._now() if measures or self._since is not None else None
        if self._since is not None:
            self._spans.append((self._part, self._since, now))
        self._part, self._since = part, now if measures else None

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def step(self, run: Run, loss: Tensor) -> None:
        if not self._detaching:
            return
        if self._profiler is not None:
            self._traced += 1
            if self._traced == self._wanted:
                self._finish()
            return
        self._taken += 1
        self.enter("data")

    def poll(self, run: Run) -> None:
        # The epoch has ended: the time of an evaluation is no step's.
        self._part, self._since = "", None
        self.close()

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        self.poll(run)
        self.enter("data")

    def end(self, run: Run) -> None:
        self.poll(run)
        self._detach()
        # Only here: it takes longer than many steps.
        if self._traced:
            self.profile = self._evaluated()

    def close(self) -> None:
        """End the trace. Safe to call at any time."""
        if self._profiler is not None and self._detaching:
            self._finish()

    def _detach(self) -> None:
        while self._detaching:
            self._detaching.pop()()

    # ------------------------------------------------------------------ torch's profiler

    def _begin_trace(self) -> None:
        # What torch.profiler.profile is built on, which imports the compiler when it starts.
        from torch.autograd.profiler import profile

        on_cuda = self._device.type == "cuda"
        self._profiler = profile(use_device="cuda" if on_cuda else None, acc_events=True)
        with _quiet():
            self._profiler.__enter__()

    def _finish(self) -> None:
        self._detach()
        with _quiet():
            self._profiler.__exit__(None, None, None)

    def _evaluated(self) -> Profile:
        parts = dict.fromkeys(PARTS, 0.0)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for part, begun, ended in self._spans:
            seconds = ended - begun if isinstance(begun, float) else begun.elapsed_time(ended) / 1e3
            parts[part] += seconds * 1e6 / self._wanted
        profiler, on_cuda = self._profiler, self._device.type == "cuda"
        key = "self_device_time_total" if on_cuda else "self_cpu_time_total"
        operators = [
            Operator(each.key, getattr(each, key) / self._traced, each.count / self._traced)
            for each in profiler.key_averages()
            if getattr(each, key) > 0
        ]
        operators.sort(key=lambda each: -each.microseconds)
        trace = self._write(profiler)
        return Profile(self._wanted, parts, self._traced, operators, self._device.type, trace)

    def _write(self, profiler: Any) -> Path:
        # torch writes to a file name only.
        path = self.folder / "trace.json"
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(written))
            files.make_folder(self.folder)
            files.replace(path, written.read_bytes())
        return path


class StepEnd(Hook):
    """The first of the hooks: tells the profiler that the step has ended."""

    name = "profiler: end of step"

    def __init__(self, profiler: Profiler) -> None:
        self.profiler = profiler

    def step(self, run: Run, loss: Tensor) -> None:
        self.profiler.enter("hooks")


def attach(run: Run, directory: Path) -> None:
    """Have a profiler watch ``run`` as the first and the last of its hooks."""
    profiler = Profiler(directory / "profile")
    run.attach([StepEnd(profiler)], first=True)
    run.attach([profiler])


def show_profile(profile: Profile | None, display: Display, record: RunRecord) -> None:
    """Show, log and record where the time of a step went."""
    lines = ["profile: too few steps to measure any"]
    if profile is None:
        display.notice(lines[0])
    else:
        lines = list(profile_lines(profile, short_path(profile.trace)))
        display.table(lines)
        parts = {name: round(value, 1) for name, value in profile.parts.items()}
        trace = {"file": f"{profile.trace.parent.name}/{profile.trace.name}", "steps": profile.traced}
        record.update(profile={"steps": profile.steps, "microseconds": parts, "trace": trace})
    for line in lines:
        log.info(line)


def profile_lines(profile: Profile, place: str) -> Iterator[str]:
    """A profile as the lines of a table, headings not indented; ``place`` is the path of the trace."""
    whole = sum(profile.parts.values()) or 1.0
    yield f"where a step goes: {_time(whole)} a step, mean of {profile.steps} steps on the {profile.device}"
    for name, value in profile.parts.items():
        share = value / whole
        yield f"  {name:<10} {_time(value):>9} {share:>5.0%}  {'█' * round(_BAR * share)}".rstrip()
    total = sum(each.microseconds for each in profile.operators) or 1.0
    traced = f"{profile.traced} traced steps, slower for it"
    yield f"operators on the {profile.device}: {_time(total)} a step, {traced}"
    shown = profile.operators[:_OPERATORS]
    for each in shown:
        yield f"  {_named(each):<{_WIDTH}} {_time(each.microseconds):>9} {each.microseconds / total:>5.0%}"
    if len(profile.operators) > len(shown):
        rest = total - sum(each.microseconds for each in shown)
        name = f"{len(profile.operators) - len(shown)} more"
        yield f"  {name:<{_WIDTH}} {_time(rest):>9} {rest / total:>5.0%}"
    yield f"every call, for ui.perfetto.dev: {place}"


def _named(operator: Operator) -> str:
    """An operator's name and how often a step calls it, cut to the column."""
    name = operator.name.removeprefix("autograd::engine::evaluate_function: ")
    calls = f" × {operator.calls:.0f}" if operator.calls >= 1.5 else ""
    room = _WIDTH - len(calls)
    return (name if len(name) <= room else name[: room - 1] + "…") + calls


def _time(microseconds: float) -> str:
    if microseconds < 1e4:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1e3:.1f} ms" if microseconds < 1e7 else f"{microseconds / 1e6:.1f} s"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on standard error inside: torch's tracing library reports there, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
