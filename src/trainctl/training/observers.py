"""What compiling, capturing, profiling and overfitting on purpose add to a run, before and after it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.config.settings import Config
from trainctl.errors import NotLearnedError
from trainctl.paths import short_path
from trainctl.runs.record import RunRecord
from trainctl.training.display import Display

if TYPE_CHECKING:
    from trainctl.training.hooks.profile import Profiler
    from trainctl.training.loop import Run

log = logging.getLogger("trainctl")


def attach(run: Run, config: Config, directory: Path, display: Display, record: RunRecord) -> None:
    """Hang the profiler on the run, and let what is found out at its start, such as whether the model can be
    compiled, be said on the screen and in the record."""
    if config.profile:
        from trainctl.training.hooks.profile import Profiler

        run.hooks.append(Profiler(directory / "profile"))

    def tell(about: str, text: str, how: str) -> None:
        display.notice(text)
        log.info(text)
        record.update(environment={**record.values["environment"], about: how})

    for hook in run.hooks:
        if (about := getattr(hook, "about", None)) is not None and hasattr(hook, "tell"):
            hook.tell = partial(tell, about)


def release(run: Run, config: Config) -> None:
    """End what a run that was broken off would leave going."""
    if config.profile:
        _profiler(run).close()


def show_profile(run: Run, config: Config, display: Display, record: RunRecord) -> None:
    """Show, log and record where the time of a step went."""
    if not config.profile:
        return
    from trainctl.ui.profile import show, text

    found = _profiler(run).profile
    if found is None:
        said = "profile: too few steps to measure any"
        display.notice(said)
        log.info(said)
        return
    display.close()  # a line that is being redrawn would run through the table
    show(found, short_path(found.trace), config.display.mode)
    for line in text(found, short_path(found.trace)):
        log.info(line)
    parts = {name: round(value, 1) for name, value in found.parts.items()}
    traced = {"file": f"{found.trace.parent.name}/{found.trace.name}", "steps": found.traced}
    record.update(profile={"steps": found.steps, "microseconds": parts, "trace": traced})


def _profiler(run: Run) -> Profiler:
    from trainctl.training.hooks.profile import Profiler

    (found,) = (hook for hook in run.hooks if isinstance(hook, Profiler))
    return found


def judged(run: Run, config: Config) -> NotLearnedError | None:
    """What is wrong where the few batches of the run were not learned."""
    if config.train.overfit_batches is None:
        return None
    from trainctl.training.hooks.overfit import Overfit

    (hook,) = (hook for hook in run.hooks if isinstance(hook, Overfit))
    try:
        hook.judge(run)
    except NotLearnedError as error:
        return error
    return None
