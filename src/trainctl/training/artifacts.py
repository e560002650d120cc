"""Pictures of a finished run, and the files for trackers."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint.format import MODEL, folder_name
from trainctl.components.tasks._base import class_names, task_of
from trainctl.paths import short_path
from trainctl.runs.directory import CONFUSION, CURVES
from trainctl.training.built import Built
from trainctl.training.display import Display
from trainctl.training.interrupts import Stopped
from trainctl.training.request import Request
from trainctl.training.run import Run

log = logging.getLogger("trainctl")
_MOST_CLASSES = 1000


class Confusion:
    """Counts samples by true and predicted class; a metric that adds no value of its own.

    ``update`` does not wait for the device, and ignores outputs and targets of another shape.

    Shape: outputs (N, classes), targets (N,).
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._counts: Tensor | None = None
        self._fits = classes <= _MOST_CLASSES

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self._fits = self._fits and outputs.shape[1:] == (self.classes,) and targets.dim() == 1
        if not self._fits:
            return
        if self._counts is None:
            self._counts = torch.zeros(self.classes**2, dtype=torch.int64, device=outputs.device)
        self._counts.index_add_(0, targets * self.classes + outputs.argmax(1), torch.ones_like(targets))

    def merge(self, other: Confusion) -> None:
        """Add the samples of another one."""
        self._fits = self._fits and other._fits
        if self._counts is None:
            self._counts = other._counts
        elif other._counts is not None:
            self._counts += other._counts

    def compute(self) -> dict[str, float]:
        return {}

    @property
    def counts(self) -> list[list[int]] | None:
        """Samples by true class (rows) and predicted class (columns); None where nothing was counted."""
        if self._counts is None or not self._fits:
            return None
        counts: list[list[int]] = self._counts.view(self.classes, self.classes).tolist()
        return counts


def _are_pictures_wanted(request: Request) -> bool:
    """``TRAINCTL_PICTURES=0`` turns pictures off for all runs of a shell."""
    off = os.environ.get("TRAINCTL_PICTURES", "") in ("0", "false")
    return request.draw is not None and request.config.pictures and not off


def make_confusion(request: Request, built: Built) -> Confusion | None:
    """Counts the classes while the best checkpoint is tested; None where no picture is drawn."""
    drawn = _are_pictures_wanted(request) and task_of(built.data).class_numbers
    return Confusion(built.data.output_size) if drawn else None


def counting(run: Run, confusion: Confusion | None) -> Run:
    """``run`` with ``confusion`` among its metrics."""
    if confusion is None:
        return run
    return replace(run, metrics={**run.metrics, "confusion": lambda: confusion})


def draw_pictures(
    request: Request, built: Built, best_step: int, confusion: Confusion | None, display: Display
) -> None:
    """Draw the pictures of a finished run, where they are wanted; a picture that fails is a notice."""
    config, directory = request.config, request.directory
    if request.draw is None or not _are_pictures_wanted(request):
        return
    split = "test" if built.test is not None else "val"
    what = f"{built.data.name}, {split}, checkpoint of step {best_step}"
    title = f"{config.name or directory.name}: {config.model.name} on {built.data.name}"
    counts = None if confusion is None else confusion.counts
    for text in request.draw(directory, title, counts, class_names(built.data), what):
        log.warning(text)
        display.notice(text)


def artifacts(directory: Path, best_step: int) -> list[Path]:
    """The files for trackers: the best weights, the config, the pictures."""
    weights = directory / "checkpoints" / folder_name(best_step) / MODEL
    return [weights, *(directory / name for name in ("config.yaml", CURVES, CONFUSION))]


@contextlib.contextmanager
def interruptible(display: Display) -> Iterator[list[BaseException]]:
    """A signal ends the block, and is then in the list, to be raised later."""
    came: list[BaseException] = []
    try:
        yield came
    except (KeyboardInterrupt, Stopped) as error:
        came.append(error)
        display.notice("interrupted after the end of the run: pictures and trackers may be incomplete")


def places(directory: Path, values: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of the closing table: trackers that failed, and pictures."""
    names = [name for name in (CURVES, CONFUSION) if (directory / name).is_file()]
    failed = [
        ("tracker", f"{label} {state}")
        for label, state in (values.get("trackers") or {}).items()
        if state.startswith("failed at")
    ]
    return [*failed, *(("picture", short_path(directory / name)) for name in names)]
