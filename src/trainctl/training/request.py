"""The request for one run, new or resumed."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.config.config_diff import Change, require_allowed
from trainctl.config.settings import Config
from trainctl.errors import CheckpointError, ConfigError
from trainctl.registry import COMPONENTS, trust
from trainctl.runs.record import UNFINISHED, now, read_record
from trainctl.training.startup import collector_paused, importing

if TYPE_CHECKING:  # a sweep's own process makes requests, and imports no torch
    from trainctl.checkpoint.format import CheckpointData
    from trainctl.training.built import Built
    from trainctl.training.run import Hook

_COPIED = {"checkpoint.mirror"}
Draw = Callable[[Path, str, Any, Sequence[str], str], Sequence[str]]
"""Draws the pictures of a finished run from its directory, a title, the counts of a Confusion or None, the
names of the classes, and a line on split and checkpoint. Returns a line for each picture that failed."""


@dataclass(frozen=True)
class Resumed:
    """The checkpoint that a run is resumed from.

    Attributes:
        broken: newer checkpoints that are damaged, with the reason.
        changes: of the config, from here on.
        allow_change: goes on where the data has changed, too.
        finished: the run had come to its end.
    """

    checkpoint: Path
    content: CheckpointData
    broken: tuple[tuple[Path, str], ...] = ()
    changes: tuple[Change, ...] = ()
    allow_change: bool = False
    finished: bool = False

    def recorded(self, command: str) -> dict[str, Any]:
        """The values of ``run.json`` that change: until the run ends, its checkpoints say what it reached."""
        return {
            **UNFINISHED,
            "resumed": {
                "at": now(),
                "step": self.content.step,
                "checkpoint": self.checkpoint.name,
                "damaged": [path.name for path, _ in self.broken],
                "command": command,
                "changes": {change.key: [change.before, change.after] for change in self.changes},
            },
        }

    def with_recorded_threads(self, config: Config, values: Mapping[str, Any]) -> Config:
        """The config with the first number of threads for ``auto``: it decides the last bits."""
        threads = (values.get("environment") or {}).get("threads")
        return replace(config, threads=threads) if config.threads == "auto" and threads else config


@dataclass(frozen=True)
class Request:
    """One run to do.

    Attributes:
        files: the config to store, by file name.
        directory: of the run, claimed already.
        notices: for the user, before the run.
        command: the command line as typed.
        resumed: None for a new run; else the caller holds the lock of the directory.
        latest: point ``outputs/latest`` at it.
        hooks: makes hooks that watch the run beside its own.
        draw: draws pictures at the end; None draws none.
    """

    config: Config
    files: Mapping[str, str]
    directory: Path
    notices: tuple[str, ...]
    command: str
    resumed: Resumed | None = None
    latest: bool = True
    hooks: Callable[[Built], Sequence[Hook]] = lambda built: ()
    draw: Draw | None = None


def command_line(arguments: list[str]) -> str:
    """The command as typed, quoted for a shell."""
    return shlex.join(["trainctl", *arguments])


def make_request(
    directory: Path,
    overrides: list[str],
    *,
    command: str,
    allow_change: bool = False,
    trust_plugins: bool = False,
) -> Request | None:
    """The request to resume the run in ``directory``; None if it is finished and nothing is changed.

    The caller holds the lock of the directory, from before this until the run has ended: another process
    could carry the run on after it was read.

    Raises ConfigError for a run or a change that cannot be resumed, CheckpointError without a usable
    checkpoint.
    """
    with collector_paused():
        from trainctl.config.changed_config import change_config
        from trainctl.config.connections import refuse_connections

        record = read_run(directory)
        if not (directory / "config.yaml").is_file():
            raise _no_checkpoint(directory, record, overrides)
        environment = record.get("environment") or {}

        trusted = trust.checker(directory, trust_plugins=trust_plugins)
        asked = change_config(directory, overrides, trusted)
        require_allowed(asked.changes, allowed=allow_change)
        refuse_connections(asked.config, directory, overrides, trust_plugins=trust_plugins)
    mirrored = not (record.get("mirror") or {}).get("lacks")
    finished = record.get("status") == "done"
    if finished and mirrored and {each.key for each in asked.changes} <= _COPIED:
        return None
    with importing():
        from trainctl.checkpoint.retention import newest_valid

        loop = COMPONENTS["loop"].load(asked.config.loop.name)
    if not getattr(loop, "resumes", True):
        raise ConfigError(
            f"loop={asked.config.loop.name} cannot be resumed", f"start it again: {record.get('command')}"
        )
    if not any((directory / "checkpoints").glob("step-*")):
        raise _no_checkpoint(directory, record, overrides)
    path, content, broken = newest_valid(directory / "checkpoints")
    asked = asked.from_checkpoint(content.step, environment.get("threads"))
    resumed = Resumed(path, content, tuple(broken), tuple(asked.changes), allow_change, finished)
    # The checkpoint has the weights of init_from; that run may be gone, and `last` is another one.
    config = replace(asked.config, init_from=None)
    return Request(config, asked.files, directory, (), command, resumed)


def read_run(directory: Path) -> dict[str, Any]:
    """The ``run.json`` of a run to resume. Raises CheckpointError for a damaged one, as a kill at the very
    start leaves it."""
    try:
        return read_record(directory)
    except ConfigError as error:
        if not (directory / "run.json").exists():
            raise
        raise CheckpointError(
            str(error), "nothing was changed; if the run was stopped at its very start, start it again"
        ) from error


def _no_checkpoint(directory: Path, record: dict[str, Any], overrides: list[str]) -> CheckpointError:
    """The reason, and the command that begins the run again, with what was typed now."""
    failed = record.get("status") == "failed"
    how = "failed" if failed else "was stopped"
    reason = f": {record['reason']}" if failed and record.get("reason") else ""
    command = record.get("command") or "with the command that began it"
    with contextlib.suppress(ValueError):  # an unclosed quote
        keys = set(map(_key, overrides))
        kept = [word for word in shlex.split(command) if "=" not in word or _key(word) not in keys]
        command = shlex.join([*kept, *overrides]) if overrides and kept[0] == "trainctl" else command
    again = "correct that and start it again" if failed and not overrides else "start it again"
    return CheckpointError(
        f"{directory} has no checkpoint: the run {how} before it saved the first one{reason}",
        f"{again}: {command}",
    )


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")
