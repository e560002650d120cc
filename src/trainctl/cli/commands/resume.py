"""Carry an interrupted run, or a half-finished sweep, to its end."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from itertools import count
from pathlib import Path

from trainctl.cli.options import TRUST, Argument, Asked, Command, Option
from trainctl.cli.start import start
from trainctl.distributed.context import as_many_devices
from trainctl.errors import CheckpointError, ConfigError
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
        Option(
            "--or-start",
            "begin the run where there is none, in outputs/RUN, or in RUN if that is a path",
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
    from trainctl.config.overrides import to_hydra
    from trainctl.sweep.ledger import is_sweep
    from trainctl.training.request import command_line

    asked = COMMAND.parse(words)
    overrides, typed = list(asked.overrides), ["resume", *words]
    directory = _found(asked, overrides)
    if directory is None:
        named = [] if "/" in asked.run else [f"name={asked.run}"]
        begun = (*overrides, *named, f"hydra.run.dir={_place(asked.run)}")
        return start([to_hydra(word) for word in begun], typed)
    command, trust_plugins = command_line(typed), asked["--trust-plugins"]
    if is_sweep(directory):
        from trainctl.sweep.start import resume_sweep
        from trainctl.ui.sweep import TerminalReporter

        if overrides:
            raise ConfigError(
                f"{overrides[0]}: resuming a sweep takes no overrides",
                "resume one of its runs, or start another sweep",
            )
        return resume_sweep(
            directory, command=command, trust_plugins=trust_plugins, reporter=TerminalReporter()
        )
    return _resume(directory, asked, overrides, command)


def _found(asked: Asked, overrides: list[str]) -> Path | None:
    """The run to resume; None where ``--or-start`` has to begin it."""
    if asked["--or-start"]:
        return _found_or_cleared(asked.run, overrides)
    return _from_url(asked.run, overrides) if "://" in asked.run else find(asked.run)


def _from_url(url: str, overrides: list[str]) -> Path:
    """A run directory with what is at ``url``, which the run goes on being copied to."""
    from trainctl.checkpoint.mirrored import taken_over

    directory, notices = taken_over(url)
    for notice in [*notices, f"{url}: goes on in {short_path(directory)}"]:
        print(notice)
    overrides.insert(0, f"checkpoint.mirror={url.rstrip('/')}")
    return directory


def _found_or_cleared(name: str, overrides: list[str]) -> Path | None:
    """The run to resume with ``--or-start``; None where one has to be begun, in a place that is free.

    A run that was stopped before its first checkpoint has nothing to resume: it is renamed.
    """
    from trainctl.sweep.ledger import is_sweep
    from trainctl.training.request import read_run

    reserved = [word for word in overrides if word.lstrip("+~").startswith(("name=", "hydra."))]
    if name == "last" or "://" in name or reserved:
        raise ConfigError(
            f"{reserved[0] if reserved else name}: --or-start takes the run's name or directory from RUN",
            "trainctl resume my_run --or-start",
        )
    place = _place(name)
    try:
        directory = find(name)
    except ConfigError:
        # A kill in the moment in which it was begun leaves a run without its name.
        if not (place / "run.json").is_file():
            return None
        directory = place.resolve()
    if not (directory / "run.json").is_file():
        return directory if "/" in name or is_sweep(directory) else None
    with lock(directory):
        with contextlib.suppress(CheckpointError):  # a torn record
            if read_run(directory).get("status") == "done":
                return directory
        if any((directory / "checkpoints").glob("step-*")):
            return directory
        numbers = (directory.with_name(f"{directory.name}.unsaved-{n}") for n in count(1))
        aside = next(path for path in numbers if not path.exists())
        directory.rename(aside)
    print(f"{short_path(directory)}: stopped before its first checkpoint; it is {aside.name} now")
    return None


def _place(name: str) -> Path:
    """The directory of a run that ``--or-start`` begins."""
    return Path(name).expanduser() if "/" in name else Path("outputs") / name


def _resume(directory: Path, asked: Asked, overrides: list[str], command: str) -> int:
    from trainctl.config.changed_config import not_begun_with
    from trainctl.config.overrides import repeated, to_hydra
    from trainctl.training.request import make_request, read_run
    from trainctl.training.train import train
    from trainctl.ui.display import make_display
    from trainctl.ui.pictures import draw

    read_run(directory)  # a folder without a run gets no lock
    with lock(directory):
        notices = tuple(repeated(map(to_hydra, overrides)))
        if asked["--or-start"]:
            overrides, changed = not_begun_with(directory, overrides)
            notices += changed
        request = make_request(
            directory,
            [*overrides, *as_many_devices(overrides)],
            command=command,
            allow_change=asked["--allow-change"],
            trust_plugins=asked["--trust-plugins"],
        )
        if request is None:
            print(f"{short_path(directory)}: this run is finished, there is nothing to resume")
            print(f"train longer with trainctl resume {shlex.quote(short_path(directory))} epochs=N")
            return 0
        display = make_display(request.config.display.mode, request.config.display.every)
        return int(train(replace(request, notices=notices, draw=draw), display)["exit_code"])
