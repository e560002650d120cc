"""What is made of a run when it is done: pictures, and what the trackers still get."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.checkpoint.format import MODEL, folder_name
from trainctl.components.tasks._base import class_names, task_of
from trainctl.config.settings import Config
from trainctl.paths import short_path
from trainctl.runs.directory import CONFUSION, CURVES
from trainctl.training.build import Built
from trainctl.training.confusion import Confusion
from trainctl.training.display import Display
from trainctl.training.interrupts import Stopped
from trainctl.training.request import Request
from trainctl.training.run import Run

log = logging.getLogger("trainctl")


def pictures_wanted(config: Config) -> bool:
    """Whether to draw: ``TRAINCTL_PICTURES=0`` turns pictures off for all that a shell starts."""
    return config.pictures and os.environ.get("TRAINCTL_PICTURES", "") not in ("0", "false")


def make_confusion(request: Request, built: Built) -> Confusion | None:
    """Counts the classes while the best checkpoint is tested; None where no picture is drawn."""
    drawn = request.draw is not None and pictures_wanted(request.config)
    return Confusion(built.data.output_size) if drawn and task_of(built.data).class_numbers else None


def counting(run: Run, confusion: Confusion | None) -> Run:
    """``run`` with ``confusion`` among its metrics."""
    if confusion is None:
        return run
    return replace(run, metrics={**run.metrics, "confusion": lambda: confusion})


def draw_pictures(
    request: Request, built: Built, best_step: int, confusion: Confusion | None, display: Display
) -> None:
    """Draw the pictures of a run that is done, where they are wanted; says what could not be drawn."""
    config, directory = request.config, request.directory
    if request.draw is None or not pictures_wanted(config):
        return
    split = "test" if built.test is not None else "val"
    what = f"{built.data.name}, {split}, checkpoint of step {best_step}"
    title = f"{config.name or directory.name}: {config.model.name} on {built.data.name}"
    counts = None if confusion is None else confusion.counts
    for text in request.draw(directory, title, counts, class_names(built.data), what):
        log.warning(text)
        display.notice(text)


def artifacts(directory: Path, best_step: int) -> list[Path]:
    """The files that trackers get: the best weights, the config, the pictures."""
    weights = directory / "checkpoints" / folder_name(best_step) / MODEL
    return [weights, *(directory / name for name in ("config.yaml", CURVES, CONFUSION))]


@contextlib.contextmanager
def interruptible(display: Display) -> Iterator[list[BaseException]]:
    """Inside, a signal ends what is done there and no more; then it is in the list, to be raised later."""
    came: list[BaseException] = []
    try:
        yield came
    except (KeyboardInterrupt, Stopped) as error:
        came.append(error)
        display.notice("interrupted after the end of the run: pictures and trackers may be incomplete")


def places(directory: Path, values: dict[str, Any]) -> list[tuple[str, str]]:
    """What the closing table says of pictures and trackers."""
    names = [name for name in (CURVES, CONFUSION) if (directory / name).is_file()]
    failed = [
        ("tracker", f"{label} {state}")
        for label, state in (values.get("trackers") or {}).items()
        if state.startswith("failed at")
    ]
    return [*failed, *(("picture", short_path(directory / name)) for name in names)]
