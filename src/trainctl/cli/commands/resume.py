"""Carry an interrupted run, or a half-finished sweep, to its end: trainctl resume RUN [KEY=VALUE …]."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainctl.distributed.context import as_many_devices
from trainctl.errors import ConfigError
from trainctl.paths import short_path
from trainctl.runs.directory import find, lock
from trainctl.sweep.ledger import is_sweep
from trainctl.training.request import command_line
from trainctl.training.train import train
from trainctl.ui.display import make_display
from trainctl.ui.pictures import draw

_OPTIONS = ("--allow-change", "--trust-plugins")


def run(words: list[str]) -> int:
    """Resume the run that the first word names; the others change its settings. Returns the exit code."""
    options = {word for word in words if word.startswith("--")}
    if unknown := sorted(options - set(_OPTIONS)):
        raise ConfigError(f"{unknown[0]}: resume has no such option", f"there are: {', '.join(_OPTIONS)}")
    plain = [word for word in words if word not in options]
    if not plain or "=" in plain[0]:
        raise ConfigError("resume needs a RUN", "trainctl resume RUN: a directory, last, or a name")
    directory, overrides = find(plain[0]), plain[1:]
    command, trust_plugins = command_line(["resume", *words]), "--trust-plugins" in options
    if is_sweep(directory):
        from trainctl.sweep.start import resume_sweep
        from trainctl.ui.jobs import TerminalReporter

        if overrides:
            raise ConfigError(
                f"{overrides[0]}: resuming a sweep takes no overrides",
                "resume one of its runs, or start another sweep",
            )
        return resume_sweep(
            directory, command=command, trust_plugins=trust_plugins, reporter=TerminalReporter()
        )
    return _resume(directory, overrides, command, "--allow-change" in options, trust_plugins)


def _resume(
    directory: Path, overrides: list[str], command: str, allow_change: bool, trust_plugins: bool
) -> int:
    from trainctl.training.request import make_request, read_run

    overrides = [*overrides, *as_many_devices(overrides)]
    read_run(directory)  # a folder without a run gets no lock
    with lock(directory):
        request = make_request(
            directory, overrides, command=command, allow_change=allow_change, trust_plugins=trust_plugins
        )
        if request is None:
            print(f"{short_path(directory)}: this run is finished, there is nothing to resume")
            print("train longer with trainctl resume RUN train.epochs=N")
            return 0
        display = make_display(request.config.display.mode, request.config.display.every)
        return int(train(replace(request, draw=draw), display)["exit_code"])
