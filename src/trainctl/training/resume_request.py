"""What to do to carry a run on: its directory read and checked, before anything is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainctl.config.config_diff import require_allowed
from trainctl.errors import CheckpointError, ConfigError
from trainctl.registry import COMPONENTS, plugins
from trainctl.runs.directory import lock
from trainctl.runs.record import read_record
from trainctl.training.request import Request, Resumed
from trainctl.training.startup import collector_paused, importing


def make_request(
    directory: Path,
    overrides: list[str],
    *,
    command: str,
    allow_change: bool = False,
    trust_plugins: bool = False,
) -> Request | None:
    """The request that carries the run in ``directory`` on; None if it is finished and nothing is changed.

    Raises ConfigError for what cannot be resumed or changed, CheckpointError without a usable checkpoint,
    DirectoryTakenError while another process trains in it.
    """
    with collector_paused():
        from trainctl.config.changed_config import change_config

        record = _read_record(directory)
        # The lock comes before anything else is read: another process may be writing.
        with lock(directory):
            pass
        if not (directory / "config.yaml").is_file():
            raise _no_checkpoint(directory, record)
        environment = record.get("environment") or {}

        def trusted(named: list[str]) -> None:
            if not trust_plugins:
                plugins.refuse_changed(named, environment.get("plugins") or [])

        asked = change_config(directory, overrides, trusted)
        require_allowed(asked.changes, allowed=allow_change)
    if record.get("status") == "done" and not asked.changes:
        return None
    with importing():
        from trainctl.checkpoint.retention import newest_valid

        loop = COMPONENTS["loop"].load(asked.config.loop.name)
    if not getattr(loop, "resumes", True):
        raise ConfigError(
            f"loop={asked.config.loop.name} cannot be resumed", f"start it again: {record.get('command')}"
        )
    if not any((directory / "checkpoints").glob("step-*")):
        raise _no_checkpoint(directory, record)
    path, content, broken = newest_valid(directory / "checkpoints")
    asked = asked.from_checkpoint(content.step, environment.get("threads"))
    resumed = Resumed(path, content, tuple(broken), tuple(asked.changes))
    # The checkpoint holds what init_from gave; that run may be gone by now, and `last` is another one.
    config = replace(asked.config, init_from=None)
    return Request(config, asked.files, directory, (), command, resumed)


def _read_record(directory: Path) -> dict[str, Any]:
    """The run's record. A damaged one, as a kill at the very start leaves it, raises CheckpointError."""
    try:
        return read_record(directory)
    except ConfigError as error:
        if not (directory / "run.json").exists():
            raise
        raise CheckpointError(
            str(error), "nothing was changed; if the run was stopped at its very start, start it again"
        ) from error


def _no_checkpoint(directory: Path, record: dict[str, Any]) -> CheckpointError:
    return CheckpointError(
        f"{directory} has no checkpoint: the run was stopped before it saved the first one",
        f"start it again: {record.get('command') or 'with the command that began it'}",
    )
