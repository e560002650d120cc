"""The course of a run, as points to draw: the training loss smoothed, the evaluations as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainctl.analysis.discovery import Entry
from trainctl.runs.metrics_file import parse_lines

Points = list[tuple[int, float]]
_WINDOWS = 50


@dataclass(frozen=True)
class Curves:
    """A run's curves, each a list of (step, value) by step; values are finite.

    Attributes:
        train: the training loss of every step, smoothed, thinned.
        val: the evaluations by name, such as ``val/loss``.
        damaged: lines of ``metrics.jsonl`` that could not be read.
    """

    train: Points
    val: Mapping[str, Points]
    damaged: int = 0


def has_course(entry: Entry) -> bool:
    """Whether a run has curves that may be read: not where a file of its is damaged or foreign."""
    path = entry.directory / "metrics.jsonl"
    return entry.state != "unreadable" and path.is_file() and not path.is_symlink()


def read_curves(directory: Path, most: int) -> Curves:
    """The curves of the run in ``directory``, about ``most`` points each; empty ones where there are none."""
    try:
        content = (directory / "metrics.jsonl").read_bytes()
    except OSError:
        return Curves([], {})
    lines, damaged = parse_lines(content)
    train: Points = []
    val: dict[str, Points] = {}
    for line in lines:
        step = line.get("step")
        if type(step) is not int:
            continue
        if "train/loss" in line:
            _add(train, step, line["train/loss"])
        else:
            for name, value in line.items():
                if name.startswith("val/") and name.count("/") == 1:
                    _add(val.setdefault(name, []), step, value)
    thinned = {name: thin(points, most) for name, points in val.items() if points}
    return Curves(thin(smooth(train), most), thinned, damaged)


def _add(points: Points, step: int, value: Any) -> None:
    # What is not finite is written as text: there is nothing to draw.
    if isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value):
        points.append((step, float(value)))


def smooth(points: Points) -> Points:
    """The running mean with exponential weights, over about a fiftieth of the run.

    Corrected for its beginning, as Adam's moments are: the first value is the first loss itself.
    """
    keep = 1.0 - 1.0 / max(1.0, len(points) / _WINDOWS)
    mean, weight, smoothed = 0.0, 1.0, []
    for step, value in points:
        mean = keep * mean + (1.0 - keep) * value
        weight *= keep
        smoothed.append((step, mean / (1.0 - weight)))
    return smoothed


def thin(points: Points, most: int) -> Points:
    """At most ``most`` of the points (four at least): the first, the last, and of each stretch between them
    the lowest and the highest, so that no spike is lost."""
    if len(points) <= max(most, 4):
        return points
    stretches = (max(most, 4) - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(stretches):
        stretch = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        kept += sorted({min(stretch, key=_height), max(stretch, key=_height)})
    return [*kept, points[-1]]


_height: Callable[[tuple[int, float]], float] = lambda point: point[1]  # noqa: E731


def bounds(curves: Sequence[Points]) -> tuple[float, float, float, float] | None:
    """First and last step, lowest and highest value; None without a point."""
    every = [point for points in curves for point in points]
    if not every:
        return None
    steps, values = [step for step, _ in every], [value for _, value in every]
    return min(steps), max(steps), min(values), max(values)
