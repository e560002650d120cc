"""The cost of a sweep as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from trainctl.sweep.ledger import Job
from trainctl.sweep.planning import Plan
from trainctl.training.display import duration
from trainctl.ui.screen import Screen
from trainctl.ui.table import Column, Table

_REASON = 100
_COLUMNS = ("shape", "jobs", "parameters", "time/step", "time/job", "memory", "disk/job")


def show(
    plan: Plan,
    jobs: Sequence[Job],
    notices: Sequence[str],
    free: Mapping[str, int | None],
    stream: TextIO | None = None,
) -> None:
    """A row for each shape of model and batch, the total, and the jobs that would fail."""
    screen = Screen(stream)
    for notice in notices:
        screen.line(notice, "yellow")
    table = _table(plan)
    if table.rows:
        screen.table(table)
    labels = {job.number: job.label for job in jobs}
    for number, reason in plan.failing:
        screen.line(f"would fail: {labels[number]}: {reason[:_REASON]}", "red")
    count = len(jobs) - len(plan.failing)
    screen.line(
        f"{count} job{'s' * (count != 1)}, {plan.places}: about {duration(plan.seconds)} once processes have"
        f" started, "
        f"{size(plan.memory)} of memory{_of(free.get('memory'))}, "
        f"{size(plan.disk)} on disk{_of(free.get('disk'))}",
        "bold",
    )
    if (memory := free.get("memory")) is not None and plan.memory > memory:
        screen.line("not enough memory: run fewer jobs at a time with sweep.jobs=N", "red")
    if (disk := free.get("disk")) is not None and plan.disk > disk:
        screen.line("not enough disk space: choose another folder with hydra.sweep.dir=DIR", "red")


def _table(plan: Plan) -> Table:
    measured = [(shape, shape.measured) for shape in plan.shapes if shape.measured.error is None]
    rows = tuple(
        (
            shape.words,
            str(len(shape.jobs)),
            f"{cost.parameters:,}",
            _short(cost.step),
            _range(shape.seconds, duration),
            size(cost.memory + cost.device_memory),
            _range(shape.disk, size),
        )
        for shape, cost in measured
    )
    return Table(tuple(Column(name, right=name != "shape") for name in _COLUMNS), rows)


def _of(free: int | None) -> str:
    return "" if free is None else f" ({size(free)} free)"


def _short(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


def _range(values: Sequence[float], words: Callable[[float], str]) -> str:
    low, high = words(min(values)), words(max(values))
    return low if low == high else f"{low} to {high}"


def size(count: float) -> str:
    """Bytes as ``4.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
