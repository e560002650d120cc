"""Carry an interrupted run, or a half-finished sweep, to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainctl.cli.options import TRUST, Argument, Command, Option
from trainctl.distributed.context import as_many_devices
from trainctl.errors import ConfigError
from trainctl.paths import short_path
from trainctl.runs.directory import find, lock

COMMAND = Command(
    __name__,
    __doc__,
    (
        Argument(
            "RUN", "run or sweep directory, last, a name given with name=, or a URL of checkpoint.mirror"
        ),
        Argument("KEY=VALUE", "settings to change, such as lr=1e-4", least=0, most=None),
    ),
    (
        Option(
            "--allow-change",
            "accept changes that cannot be honoured exactly: other data, another seed or schedule",
        ),
        TRUST,
    ),
    (
        ("The newest run, from where it was.", "trainctl resume last"),
        ("What was copied to a bucket, to its 30th epoch.", "trainctl resume s3://bucket/first epochs=30"),
    ),
    {
        1: "jobs of a sweep failed, debug=overfit did not learn, or an internal error",
        **dict.fromkeys((3, 4, 6, 7, 8), ""),
    },
)


def run(words: list[str]) -> int:
    """Resume a run, with other settings where some are given, or a sweep. Returns the exit code."""
    from trainctl.sweep.ledger import is_sweep
    from trainctl.training.request import command_line

    asked = COMMAND.parse(words)
    overrides = list(asked.overrides)
    directory = _from_url(asked.run, overrides) if "://" in asked.run else find(asked.run)
    command, trust_plugins = command_line(["resume", *words]), asked["--trust-plugins"]
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
    return _resume(directory, overrides, command, asked["--allow-change"], trust_plugins)


def _from_url(url: str, overrides: list[str]) -> Path:
    """A run directory with what is at ``url``, which the run goes on being copied to."""
    from trainctl.checkpoint.mirrored import taken_over

    directory, notices = taken_over(url)
    for notice in [*notices, f"{url}: goes on in {short_path(directory)}"]:
        print(notice)
    overrides.insert(0, f"checkpoint.mirror={url.rstrip('/')}")
    return directory


def _resume(
    directory: Path, overrides: list[str], command: str, allow_change: bool, trust_plugins: bool
) -> int:
    from trainctl.training.request import make_request, read_run
    from trainctl.training.train import train
    from trainctl.ui.display import make_display
    from trainctl.ui.pictures import draw

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
