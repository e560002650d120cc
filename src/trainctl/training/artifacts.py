"""What a run tells its trackers, and the pictures that are drawn when it is done."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.config.settings import Config
from trainctl.runs.directory import RunRecord
from trainctl.training.display import Display
from trainctl.training.interrupts import Stopped

if TYPE_CHECKING:
    from trainctl.training.build import Built
    from trainctl.training.confusion import Confusion
    from trainctl.training.hooks.tracking import Tracking, Watched
    from trainctl.training.loop import Run
    from trainctl.training.train import Request

log = logging.getLogger("trainctl")


def make_tracking(
    trackers: dict[str, Watched], request: Request, record: RunRecord, display: Display
) -> Tracking:
    """The hook that feeds ``trackers``; ``run.json`` has from now on how each of them fares."""
    from trainctl.config.values import parse_values
    from trainctl.training.hooks.tracking import Tracking

    directory, text = request.directory, request.files["config.yaml"]
    settings = parse_values(text.encode(), "config.yaml")
    settings = {key: value for key, value in settings.items() if key.partition(".")[0] != "tracker"}
    name = request.config.name or "/".join(directory.parts[-2:])
    tracking = Tracking(trackers, directory / "metrics.jsonl", name, settings, display.notice)
    record.values.pop("trackers", None)
    if trackers:
        record.update(trackers=tracking.states)
    return tracking


def make_confusion(config: Config, built: Built) -> Confusion | None:
    """What counts the classes while the best checkpoint is tested; None where no picture is drawn."""
    from trainctl.training.confusion import Confusion, pictures_wanted

    if not pictures_wanted(config.pictures) or built.data.task != "classification":
        return None
    return Confusion(built.data.output_size)


def counting(run: Run, confusion: Confusion | None) -> Run:
    """``run`` with ``confusion`` among its metrics."""
    if confusion is None:
        return run
    return replace(run, metrics={**run.metrics, "confusion": lambda: confusion})


def finish(
    config: Config,
    built: Built,
    directory: Path,
    best_step: int,
    confusion: Confusion | None,
    tracking: Tracking,
    display: Display,
    status: str,
) -> None:
    """Draw the pictures, and give the trackers what is left to give, ``status`` with it.

    Called when ``run.json`` says how the run has ended: nothing of this can change that.
    """
    from trainctl.checkpoint import format as checkpoint
    from trainctl.ui import pictures

    draw_pictures(config, built, directory, best_step, confusion, display)
    weights = directory / "checkpoints" / checkpoint.folder_name(best_step) / checkpoint.MODEL
    names = ("config.yaml", pictures.CURVES, pictures.CONFUSION)
    tracking.close(status, [weights, *(directory / name for name in names)])


def draw_pictures(
    config: Config,
    built: Built,
    directory: Path,
    best_step: int,
    confusion: Confusion | None,
    display: Display,
) -> None:
    """Draw the pictures of a run that is done, where they are wanted; says what could not be drawn."""
    from trainctl.training.confusion import pictures_wanted
    from trainctl.training.evaluation import class_names
    from trainctl.ui import pictures

    if pictures_wanted(config.pictures):
        split = "test" if built.test is not None else "val"
        what = f"{built.data.name}, {split}, checkpoint of step {best_step}"
        title = f"{config.name or directory.name}: {config.model.name} on {built.data.name}"
        counts = None if confusion is None else confusion.counts
        for text in pictures.draw(directory, title, counts, class_names(built.data), what):
            log.warning(text)
            display.notice(text)


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
    from trainctl.paths import short_path

    names = [name for name in ("curves.png", "confusion.png") if (directory / name).is_file()]
    failed = [
        ("tracker", f"{label} {state}")
        for label, state in (values.get("trackers") or {}).items()
        if state.startswith("failed at")
    ]
    return [*failed, *(("picture", short_path(directory / name)) for name in names)]
