"""The cost of a sweep as a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainctl.sweep.ledger import Job
from trainctl.sweep.planning import Plan
from trainctl.training.display import duration

_REASON = 100


def show(
    plan: Plan,
    jobs: Sequence[Job],
    notices: Sequence[str],
    free: Mapping[str, int | None],
    stream: TextIO | None = None,
) -> None:
    """A row a shape, what all of it takes, and the jobs that would fail."""
    stream = stream or sys.stdout
    # A pipe has no width: nothing is cut off there.
    console = Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else 160)
    for notice in notices:
        console.print(Text(notice, style="yellow"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("shape", "jobs", "parameters", "a step", "a job", "memory", "disk a job"):
        table.add_column(name, justify="left" if name == "shape" else "right")
    for shape in plan.shapes:
        measured = shape.measured
        if measured.error is not None:
            continue
        table.add_row(
            Text(shape.words),
            str(len(shape.jobs)),
            f"{measured.parameters:,}",
            _short(measured.step),
            _range(shape.seconds, duration),
            size(measured.memory + measured.device_memory),
            _range(shape.disk, size),
        )
    if table.row_count:
        console.print(table)
    labels = {job.number: job.label for job in jobs}
    for number, reason in plan.failing:
        console.print(Text(f"would fail: {labels[number]}: {reason[:_REASON]}", style="red"))
    good = len(jobs) - len(plan.failing)
    console.print(
        Text(
            f"{good} jobs, {plan.places}: about {duration(plan.seconds)}, "
            f"{size(plan.memory)} of memory{_of(free.get('memory'))}, "
            f"{size(plan.disk)} on disk{_of(free.get('disk'))}",
            style="bold",
        )
    )
    if (available := free.get("memory")) is not None and plan.memory > available:
        console.print(Text("the memory does not suffice: fewer at a time with sweep.jobs=N", style="red"))
    if (room := free.get("disk")) is not None and plan.disk > room:
        console.print(Text("the disk does not suffice: another place with hydra.sweep.dir=DIR", style="red"))


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
