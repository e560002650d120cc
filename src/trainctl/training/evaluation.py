"""The metrics of a run, and the value that decides the best checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trainctl.components.metrics._base import Metric
from trainctl.components.tasks._base import Task, class_names, task_of
from trainctl.config.settings import Component
from trainctl.data import Data
from trainctl.errors import ConfigError, Problem
from trainctl.registry import METRICS
from trainctl.registry.constraints import show


def choose_metrics(chosen: Sequence[Component] | None, data: Data) -> dict[str, Callable[[], Metric]]:
    """Makers of the metrics of a run, by name; None chooses by task.

    Raises ConfigError for metrics that do not fit the task or the data.
    """
    if chosen is None:
        own = task_of(data).metrics if _comparable(data) else ()
        chosen = [Component(METRICS.group, name) for name in own]
    elif chosen and not _comparable(data):
        raise ConfigError(
            f"train.metrics={show([each.name for each in chosen])}: the outputs that this loss trains do not"
            " compare with the targets",
            "use train.metrics=[], or another loss",
        )
    misfits = [metric.name for metric in chosen if not _fits(metric.name, data)]
    if misfits:
        fitting = [name for name in METRICS.names() if _fits(name, data)]
        raise ConfigError(
            [
                Problem(
                    f"train.metrics={name}: not computed for {data.task}, which dataset {data.name} is",
                    f"there are: {', '.join(fitting)}",
                )
                for name in misfits
            ]
        )
    names, task = class_names(data), task_of(data)
    supplied = {"output_size": len(names) or data.output_size, "classes": names}
    metrics = {metric.name: _maker(metric, supplied, task) for metric in chosen}
    for make in metrics.values():
        make()  # a constructor that refuses its arguments does so now, not after the first epoch
    return metrics


def _comparable(data: Data) -> bool:
    return data.readout is None or data.readout.is_comparable


def _fits(name: str, data: Data) -> bool:
    return getattr(METRICS.load(name), "task", data.task) in (task_of(data).metric_tasks or (data.task,))


def _maker(metric: Component, supplied: Mapping[str, Any], task: Task) -> Callable[[], Metric]:
    wanted = {key: supplied[key] for key in METRICS.takes(metric.name)}
    make = partial(METRICS.load(metric.name), **metric.arguments, **wanted)
    return lambda: task.metric(make())


def choose_monitor(monitor: str, data: Data, metrics: Mapping[str, Any]) -> tuple[str, bool]:
    """The monitored value, and whether lower is better. ``auto`` is the task's choice.

    Raises ConfigError for a value that the run does not compute.
    """
    if monitor == "auto":
        monitor = task_of(data).monitor(metrics)
    single = [name for name in metrics if not getattr(METRICS.load(name), "several", False)]
    known = [f"val/{name}" for name in ("loss", *single)]
    if monitor not in known:
        name = monitor.removeprefix("val/")
        reason = (
            "several values, the monitor is one"
            if name in metrics
            else f"not computed for {data.task}"
            if name in METRICS.names() and not _fits(name, data)
            else "not computed, train.metrics chooses what is"
        )
        raise ConfigError(f"train.monitor={monitor}: {reason}", f"there are: {', '.join(known)}")
    name = monitor.removeprefix("val/")
    return monitor, name == "loss" or bool(getattr(METRICS.load(name), "lower_is_better", False))
