"""What one run is to do, and where an interrupted one goes on."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.config.config_diff import Change
from trainctl.config.settings import Config
from trainctl.runs.record import now

if TYPE_CHECKING:  # a sweep's own process makes requests, and imports no torch
    from trainctl.checkpoint.format import CheckpointData
    from trainctl.training.build import Built
    from trainctl.training.run import Hook

Draw = Callable[[Path, str, Any, Sequence[str], str], Sequence[str]]
"""Draws the pictures of a finished run, given its directory, a title, the counts of a Confusion or None, the
names of the classes, and which split and checkpoint. Returns a line for each picture that failed."""


@dataclass(frozen=True)
class Resumed:
    """Where and how a run goes on.

    Attributes:
        checkpoint: the one it goes on from.
        content: what stands in it.
        broken: newer ones that are damaged, with the reason.
        changes: what is to be different from here on.
    """

    checkpoint: Path
    content: CheckpointData
    broken: tuple[tuple[Path, str], ...] = ()
    changes: tuple[Change, ...] = ()

    def recorded(self, command: str) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return {
            "status": "running",
            "exit_code": None,
            "reason": None,
            "ended": None,
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
        """The number of threads decides the last bits: ``auto`` is what the run was started with."""
        threads = (values.get("environment") or {}).get("threads")
        return replace(config, threads=threads) if config.threads == "auto" and threads else config


@dataclass(frozen=True)
class Request:
    """One run to do.

    Attributes:
        config: the checked settings.
        files: what to store of the config, by file name.
        directory: where it goes, taken already.
        notices: what the user must be told before the run.
        command: the command line as typed.
        resumed: where an interrupted run goes on; None for a new one.
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
