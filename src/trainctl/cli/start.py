"""Start a run from KEY=VALUE words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainctl.distributed.context import as_many_devices
from trainctl.errors import ConfigError
from trainctl.training.interrupts import Stopped, held_back
from trainctl.training.startup import collector_paused, load_libraries_meanwhile

_OF_SWEEPS = ("hydra/launcher=", "hydra/sweeper=", "hydra.launcher.", "hydra.sweeper.")


def start(
    overrides: Sequence[str],
    typed: Sequence[str],
    config_dir: str | None = None,
    config_name: str | None = None,
) -> int:
    """Train once with ``overrides``, which are in Hydra's form; returns the exit code.

    Args:
        typed: all the words of the command line.
        config_dir, config_name: one more folder of configs, and its primary config.
    """
    # Hydra, while it is imported and while it composes, swallows an interrupt or takes it for a wrong config.
    with held_back(), collector_paused():
        from trainctl.config.composer import Composer, run_directory
        from trainctl.config.stored_config import stored_files
        from trainctl.runs.directory import also_named, claim
        from trainctl.training.failures import record_stop
        from trainctl.training.request import Request, command_line
        from trainctl.training.train import train
        from trainctl.ui.display import make_display
        from trainctl.ui.pictures import draw

        composer = Composer(config_dir, config_name)
    load_libraries_meanwhile()
    words = [*overrides, *as_many_devices(list(overrides))]
    with held_back(), collector_paused():
        composed = composer.compose(words)
    if of_sweeps := [word for word in words if word.lstrip("+").startswith(_OF_SWEEPS)]:
        raise ConfigError(f"{of_sweeps[0]}: has an effect on sweeps only", "add -m, or leave it out")
    named = any(word.lstrip("+").startswith("hydra.run.dir=") for word in words)
    where, files = Path(run_directory(composed)), stored_files(composed)
    taken = also_named(composed.config.name)
    directory: Path | None = None
    try:
        # A directory that is taken has a record, which must not say "running" for ever.
        with held_back():
            directory = claim(where, named=named)
        command = command_line(list(typed))
        notices = (*composed.notices, *taken)
        request = Request(composed.config, files, directory, notices, command, draw=draw)
        display = make_display(composed.config.display.mode, composed.config.display.every)
        values = composer.run(composed, directory, lambda: train(request, display))
    except (Stopped, KeyboardInterrupt) as error:
        if directory is not None:
            record_stop(directory, error)
        raise
    return int(values["exit_code"])
