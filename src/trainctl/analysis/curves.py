"""A run's curves as points to draw: loss, learning rate, evaluations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainctl.errors import ConfigError
from trainctl.runs.metrics_file import rows

Points = list[tuple[int, float]]
_WINDOWS = 50
_LARGEST = sys.float_info.max


@dataclass
class Curves:
    """Each a list of (step, value) by step; values that are not finite are left out.

    Attributes:
        train: the training loss.
        lr: the learning rate.
        val: the evaluations by name, such as ``val/loss``; those of single classes are left out.
        damaged: lines of ``metrics.jsonl`` that could not be read.
    """

    train: Points = field(default_factory=list)
    lr: Points = field(default_factory=list)
    val: dict[str, Points] = field(default_factory=dict)
    damaged: int = 0

    def to_draw(self, most: int) -> Curves:
        """The same with the training loss smoothed, about ``most`` points a curve."""
        val = {name: thin(points, most) for name, points in self.val.items()}
        return Curves(thin(smooth(self.train), most), thin(self.lr, most), val, self.damaged)


def read_curves(directory: Path, most_steps: int | None = None) -> Curves:
    """The curves of the run in ``directory``, empty without a ``metrics.jsonl``; ``most_steps`` as in
    :func:`trainctl.runs.metrics_file.rows`."""
    curves = Curves()
    try:
        for row in rows(directory / "metrics.jsonl", most_steps=most_steps):
            if row is None:
                curves.damaged += 1
                continue
            step = row.get("step")
            if type(step) is not int or step > _LARGEST:
                continue
            for name, value in row.items():
                # metrics.jsonl has NaN and infinity as text.
                if type(value) not in (float, int) or not abs(value) <= _LARGEST:
                    continue
                point = (step, float(value))
                if name == "train/loss":
                    curves.train.append(point)
                elif name == "lr":
                    curves.lr.append(point)
                elif name.startswith("val/") and name.count("/") == 1:
                    curves.val.setdefault(name, []).append(point)
    except (OSError, ConfigError):
        return Curves()
    return curves


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
    """At most ``most`` of the points (four at least): the first, the last, and of each segment between them
    the lowest and the highest, so that no spike is lost."""
    if len(points) <= max(most, 4):
        return points
    segments = (max(most, 4) - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(segments):
        segment = inner[number * len(inner) // segments : (number + 1) * len(inner) // segments]
        kept += sorted({min(segment, key=_height), max(segment, key=_height)})
    return [*kept, points[-1]]


_height: Callable[[tuple[int, float]], float] = lambda point: point[1]  # noqa: E731


def bounds(curves: Sequence[Points]) -> tuple[float, float, float, float] | None:
    """First and last step, lowest and highest value; None without a point."""
    every = [point for points in curves for point in points]
    if not every:
        return None
    steps, values = [step for step, _ in every], [value for _, value in every]
    return min(steps), max(steps), min(values), max(values)
