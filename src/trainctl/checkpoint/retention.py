"""Which checkpoints of a folder exist, which one is used, and which are deleted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainctl.checkpoint.format import CheckpointData, folder_name, is_count, read_checkpoint
from trainctl.checkpoint.store import LocalStore
from trainctl.errors import CheckpointError
from trainctl.runs.record import read_record

Found = tuple[Path, CheckpointData, list[tuple[Path, str]]]
_NONE_YET = "if the run is still training, wait for its first checkpoint"


def list_checkpoints(folder: Path, *, committed: bool = True) -> list[Path]:
    """The finished checkpoints in ``folder``, oldest first; without ``committed`` also those that lost
    their manifest."""
    names = [name for name in LocalStore(folder).list(committed=committed) if name.startswith("step-")]
    return [folder / name for name in sorted(names, key=lambda name: (len(name), name))]


def newest_valid(folder: Path, *, training: bool = True) -> Found:
    """The newest undamaged checkpoint, its content, and the newer damaged ones, each with the reason.

    ``training`` as in :func:`read_checkpoint`.

    Raises CheckpointError (exit 4) when there is none; nothing is changed.
    """
    damaged: list[tuple[Path, str]] = []
    paths = list_checkpoints(folder, committed=False)
    while paths:
        path = paths.pop()
        try:
            data = read_checkpoint(path, training=training)
            if path.name != folder_name(data.step):
                raise CheckpointError(f"{path} is the checkpoint of step {data.step}, renamed")
            return path, data, damaged
        except CheckpointError as error:
            if os.path.lexists(path):
                damaged.append((path, str(error)))
            else:  # removed by training, which has saved a newer one
                damaged, paths = [], list_checkpoints(folder, committed=False)
    if damaged:
        listed = "; ".join(reason for _, reason in damaged)
        raise CheckpointError(
            f"{folder} has no usable checkpoint: {listed}", "nothing was deleted or changed"
        )
    raise CheckpointError(f"{folder} has no checkpoint", _NONE_YET)


def read_chosen(
    directory: Path, record: Mapping[str, Any], which: str = "best", *, training: bool = True
) -> Found:
    """A run's ``best`` or ``last`` checkpoint, its content, and newer damaged ones, each with the reason.

    The best one is that of ``record``, its ``run.json``, for a run that has ended; that of the newest
    checkpoint for one that trains, was killed, or could not store it. Without a best one it is the last. One
    that training removes meanwhile is chosen again. Raises CheckpointError when there is none: a damaged best
    one has no substitute. ``training`` as in :func:`read_checkpoint`.
    """
    folder, missing = directory / "checkpoints", set[Path]()
    while True:
        status = record.get("status")
        best = record.get("best") if which == "best" and status != "running" else None
        damaged: list[tuple[Path, str]] = []
        path = folder / folder_name(best["step"]) if best else folder
        if not best or (status != "done" and not os.path.lexists(path)):
            path, content, damaged = newest_valid(folder, training=training)
            best = content.state.get("best") if which == "best" else None
            if not isinstance(best, dict) or best.get("step") == content.step:
                return path, content, damaged
            if not is_count(best.get("step")):
                raise CheckpointError(f"{path} does not name the best step")
            path = folder / folder_name(best["step"])
        try:
            return path, read_checkpoint(path, training=training), damaged
        except CheckpointError as error:
            if os.path.lexists(path) or path in missing:
                remedy = "use the newest one: --checkpoint last (which='last' in Python)"
                raise CheckpointError(str(error), remedy) from error
        missing.add(path)
        record = read_record(directory)


def prune_checkpoints(folder: Path, keep: set[int], keep_last: int) -> None:
    """Delete all but the newest ``keep_last`` checkpoints and those at the steps ``keep``."""
    store, kept = LocalStore(folder), {folder_name(step) for step in keep}
    for path in list_checkpoints(folder)[:-keep_last]:
        if path.name not in kept:
            store.delete(path.name)
