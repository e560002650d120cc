"""The run of a sweep that is used in its place: the best one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainctl.config.values import read_values
from trainctl.errors import CheckpointError, ConfigError, TrainctlError
from trainctl.runs.record import read_record
from trainctl.training.display import counted, number

_REPEATED = ("seed", "dataset.fold", "name")


def winner(directory: Path) -> tuple[Path, list[str]]:
    """``directory``, or the best run of the sweep that it is, and a notice that says which.

    As in the ranked table of the sweep: runs that differ in seed and fold are one setting, of which the mean
    counts; of the best setting it is the best run. Raises CheckpointError where none has ended with a
    value, ConfigError where the values are not those of one metric.
    """
    if not (directory / "sweep.json").is_file() or (directory / "run.json").is_file():
        return directory, []
    settings: dict[str, list[tuple[float, Path]]] = {}
    monitors: dict[tuple[str, bool], None] = {}
    for path in sorted(directory.glob("*/run.json")):
        with contextlib.suppress(TrainctlError):  # a damaged one is not the best
            record = read_record(path.parent)
            if (found := _monitored(record)) is None or ".attempt-" in path.parent.name:
                continue
            name, lower, value = found
            kept = {k: v for k, v in read_values(path.parent / "config.yaml").items() if k not in _REPEATED}
            monitors[name, lower] = None
            settings.setdefault(repr(sorted(kept.items())), []).append(
                (value if lower else -value, path.parent)
            )
    if not settings:
        raise CheckpointError(
            f"{directory} is a sweep, and none of its runs has ended with a value to choose by",
            "trainctl resume carries it to its end; or give one of its runs",
        )
    if len(monitors) > 1:
        names = ", ".join(name for name, _ in monitors)
        raise ConfigError(
            f"{directory} is a sweep whose runs have different monitors: {names}",
            f"give one of its runs, such as {next(iter(settings.values()))[0][1]}",
        )
    best = min(settings.values(), key=lambda runs: math.fsum(value for value, _ in runs) / len(runs))
    value, run = min(best)
    ((name, lower),) = monitors
    many = counted(sum(map(len, settings.values())), "run")
    return run, [f"the best of {many}: run {run.name}, {name} {number(value if lower else -value)}"]


def _monitored(record: Mapping[str, Any]) -> tuple[str, bool, float] | None:
    """The monitor of a run that has ended, whether lower is better, and its best value."""
    monitor, best = record.get("monitor"), record.get("best")
    if record.get("status") != "done" or not isinstance(monitor, dict) or not isinstance(best, dict):
        return None
    name, lower = monitor.get("name"), monitor.get("lower_is_better")
    value = best.get(name) if isinstance(name, str) else None
    if not isinstance(lower, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return str(name), lower, float(value)
