"""Which checkpoints of a folder exist, which one is used, and which are deleted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainctl.checkpoint.format import CheckpointData, folder_name, read_checkpoint
from trainctl.checkpoint.store import LocalStore
from trainctl.errors import CheckpointError

_NONE_YET = "if the run is still training, wait for its first checkpoint"


def list_checkpoints(folder: Path, *, committed: bool = True) -> list[Path]:
    """The finished checkpoints in ``folder``, oldest first; without ``committed`` also those that lost
    their manifest."""
    names = [name for name in LocalStore(folder).list(committed=committed) if name.startswith("step-")]
    return [folder / name for name in sorted(names, key=lambda name: (len(name), name))]


def newest_valid(
    folder: Path, *, training: bool = True
) -> tuple[Path, CheckpointData, list[tuple[Path, str]]]:
    """The newest undamaged checkpoint, its content, and the newer damaged ones, each with the reason.

    ``training`` as in :func:`read_checkpoint`.

    Raises CheckpointError (exit 4) when there is none; nothing is changed.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(list_checkpoints(folder, committed=False)):
        try:
            data = read_checkpoint(path, training=training)
            if path.name != folder_name(data.step):
                raise CheckpointError(f"{path} is the checkpoint of step {data.step}, renamed")
            return path, data, damaged
        except CheckpointError as error:
            damaged.append((path, str(error)))
    if damaged:
        listed = "; ".join(reason for _, reason in damaged)
        raise CheckpointError(
            f"{folder} has no usable checkpoint: {listed}", "nothing was deleted or changed"
        )
    raise CheckpointError(f"{folder} has no checkpoint", _NONE_YET)


def choose_checkpoint(directory: Path, record: Mapping[str, Any], which: str = "best") -> Path:
    """The ``best`` or ``last`` checkpoint of a run, by its ``run.json``; without a best one, the last.

    Raises CheckpointError when there is none.
    """
    folder, best = directory / "checkpoints", record.get("best")
    if which == "best" and best:
        return folder / folder_name(best["step"])
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"{directory} has no checkpoint", _NONE_YET)
    return found[-1]


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left of checkpoints: half written, or half removed."""
    LocalStore(folder).remove_leftovers()


def prune_checkpoints(folder: Path, keep: set[int], keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints and those at the steps ``keep``."""
    store, kept = LocalStore(folder), {folder_name(step) for step in keep}
    for path in list_checkpoints(folder)[:-keep_last]:
        if path.name not in kept:
            store.delete(path.name)
