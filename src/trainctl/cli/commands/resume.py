"""Carry an interrupted run, or a half-finished sweep, to its end: trainctl resume RUN [KEY=VALUE …]."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.config.config_diff import require_allowed
from trainctl.errors import ConfigError
from trainctl.paths import short_path
from trainctl.registry import plugins
from trainctl.runs.directory import find, lock
from trainctl.runs.record import read_record
from trainctl.sweep.ledger import is_sweep
from trainctl.training.request import Request, Resumed, command_line
from trainctl.training.startup import collector_paused, importing
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
    directory = find(plain[0])
    if is_sweep(directory):
        from trainctl.sweep.run import resume_sweep

        if plain[1:]:
            raise ConfigError(
                f"{plain[1]}: a sweep is resumed as it is", "resume one of its runs, or start another sweep"
            )
        return resume_sweep(
            directory,
            command=command_line(["resume", *words]),
            trust_plugins="--trust-plugins" in options,
        )
    return resume(
        directory,
        plain[1:],
        command=command_line(["resume", *words]),
        allow_change="--allow-change" in options,
        trust_plugins="--trust-plugins" in options,
    )


def resume(
    directory: Path, overrides: list[str], *, command: str, allow_change: bool, trust_plugins: bool
) -> int:
    """Carry the run in ``directory`` on, with ``overrides`` from here on; returns the exit code."""
    request = make_request(
        directory, overrides, command=command, allow_change=allow_change, trust_plugins=trust_plugins
    )
    if request is None:
        print(f"{short_path(directory)}: this run is finished, there is nothing to resume")
        print("train longer with trainctl resume RUN train.epochs=N")
        return 0
    config = request.config
    display = make_display(config.display.mode, config.display.every)
    values: dict[str, Any] = train(replace(request, draw=draw), display)
    return int(values["exit_code"])


def make_request(
    directory: Path, overrides: list[str], *, command: str, allow_change: bool, trust_plugins: bool
) -> Request | None:
    """What to do to carry the run in ``directory`` on; None where it is finished and nothing is changed.

    Raises ConfigError for what cannot be resumed or changed, CheckpointError without a usable checkpoint,
    DirectoryTakenError while another process trains in it.
    """
    with collector_paused():
        from trainctl.config.changed_config import change_config

        record = _read_record(directory)
        # Asked before anything is read: the other process may be writing.
        with lock(directory):
            pass
        if not (directory / "config.yaml").is_file():
            _no_checkpoint(directory, record)
        stored = (record.get("environment") or {}).get("plugins") or []

        def trusted(named: list[str]) -> None:
            if not trust_plugins:
                plugins.refuse_changed(named, stored)

        asked = change_config(directory, overrides, trusted)
        require_allowed(asked.changes, allowed=allow_change)
    if record.get("status") == "done" and not asked.changes:
        return None
    with importing():
        from trainctl.checkpoint.retention import newest_valid
        from trainctl.registry import COMPONENTS

        loop = COMPONENTS["loop"].load(asked.config.loop.name)
    if not getattr(loop, "resumes", True):
        raise ConfigError(
            f"loop={asked.config.loop.name} does not resume", f"start it again: {record.get('command')}"
        )
    if not any((directory / "checkpoints").glob("step-*")):
        _no_checkpoint(directory, record)
    path, content, broken = newest_valid(directory / "checkpoints")
    asked = asked.from_checkpoint(content.step, (record.get("environment") or {}).get("threads"))
    resumed = Resumed(path, content, tuple(broken), tuple(asked.changes))
    # What it began with is in the checkpoint; the run it was may be gone, and `last` is another one now.
    config = replace(asked.config, init_from=None)
    return Request(config, asked.files, directory, (), command, resumed)


def _read_record(directory: Path) -> dict[str, Any]:
    """The record; CheckpointError for one that is there and damaged, as a run leaves it that is killed first
    thing."""
    try:
        return read_record(directory)
    except ConfigError as error:
        if not (directory / "run.json").exists():
            raise
        from trainctl.errors import CheckpointError

        raise CheckpointError(
            str(error), "nothing was changed; if it was stopped as it began, start it again"
        ) from error


def _no_checkpoint(directory: Path, record: dict[str, Any]) -> None:
    from trainctl.errors import CheckpointError

    raise CheckpointError(
        f"{directory} has no checkpoint: it was stopped before the first one was saved",
        f"start it again: {record.get('command') or 'with the command that began it'}",
    )
