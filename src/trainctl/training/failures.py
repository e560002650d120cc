"""The failure of a run, described and written into ``run.json``. Imports no torch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from trainctl.errors import StorageError, TrainctlError, storage_error
from trainctl.runs.directory import lock
from trainctl.runs.record import RunRecord, now, read_record
from trainctl.training.interrupts import Stopped

log = logging.getLogger("trainctl")


def line_of(error: Exception) -> str:
    """The first line of an error that is no heading, at most 200 characters; without one its type."""
    lines = [line.strip() for line in str(error).splitlines()]
    line = next((line for line in lines if line and not line.endswith(":")), type(error).__name__)
    return line if len(line) <= 200 else f"{line[:199]}…"


def record_stop(directory: Path, error: BaseException) -> None:
    """Write ``error`` into ``run.json`` for a run that was stopped before it could do so itself; not where
    another process trains in it by now."""
    with contextlib.suppress(TrainctlError, OSError), lock(directory, wait=0):
        if read_record(directory).get("status") == "running":
            record_failure(RunRecord.again(directory), error)


def record_failure(record: RunRecord, error: BaseException) -> None:
    """Write into ``run.json`` how ``error`` ended the run."""
    if isinstance(error, OSError):
        error = storage_error(error, "writing the run")
    elif isinstance(error, Stopped):
        error = error.error
    if isinstance(error, TrainctlError):
        status, code, reason = error.status, error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        status, code, reason = "interrupted", 130, "interrupted"
    else:
        status, code, reason = "failed", 1, f"{type(error).__name__}: {error}"
    unforeseen = code == 1 and not isinstance(error, TrainctlError)
    log.error("%s: %s", status, reason, exc_info=error if unforeseen else None)
    with contextlib.suppress(OSError):  # the disk that failed the run may fail this, too
        record.update(status=status, exit_code=code, reason=reason, ended=now())


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """Raise OSErrors of the block as StorageError (exit 5)."""
    try:
        yield
    except (OSError, StorageError) as error:
        if not directory.is_dir():
            raise StorageError(
                f"the run directory {directory} has disappeared", "the run cannot go on"
            ) from error
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, "writing the run") from error
