"""Profiling and overfitting on purpose: what they add to a run, before and after it."""

from __future__ import annotations

import logging
from pathlib import Path

from trainctl.config.settings import Config
from trainctl.errors import NotLearnedError
from trainctl.paths import short_path
from trainctl.runs import directory as rundir
from trainctl.training.display import Display
from trainctl.training.hooks.profile import Profiler, StepEnd, profile_lines
from trainctl.training.run import Run

log = logging.getLogger("trainctl")


def attach(run: Run, config: Config, directory: Path) -> None:
    """Attach the profiler, where it is asked for: as the first and the last of the hooks."""
    if config.profile:
        profiler = Profiler(directory / "profile")
        run.attach([StepEnd(profiler)], first=True)
        run.attach([profiler])


def release(run: Run) -> None:
    """End what a run that was broken off would leave going."""
    if (profiler := run.hook(Profiler.name)) is not None:
        profiler.close()


def show_profile(run: Run, display: Display, record: rundir.RunRecord) -> None:
    """Show, log and record where the time of a step went."""
    profiler = run.hook(Profiler.name)
    if profiler is None:
        return
    found = profiler.profile
    if found is None:
        said = "profile: too few steps to measure any"
        display.notice(said)
        log.info(said)
        return
    lines = profile_lines(found, short_path(found.trace))
    display.table(lines)
    for line in lines:
        log.info(line)
    parts = {name: round(value, 1) for name, value in found.parts.items()}
    traced = {"file": f"{found.trace.parent.name}/{found.trace.name}", "steps": found.traced}
    record.update(profile={"steps": found.steps, "microseconds": parts, "trace": traced})


def judge(run: Run) -> NotLearnedError | None:
    """Why the few batches of an overfitting run were not learned; None where they were, and in other runs."""
    hook = run.hook("overfit")
    if hook is None:
        return None
    try:
        hook.judge(run)
    except NotLearnedError as error:
        return error
    return None
