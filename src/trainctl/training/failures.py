"""The failure of a run, described and written into ``run.json``. Imports no torch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from trainctl.errors import (
    ConfigError,
    InterruptedRunError,
    StorageError,
    TrainctlError,
    lacks_memory,
    signal_behind,
    storage_error,
    torch_error,
)
from trainctl.runs.directory import lock
from trainctl.runs.record import RunRecord, now, read_record
from trainctl.runs.secrets import masked
from trainctl.training.interrupts import Stopped

log = logging.getLogger("trainctl")
_TRACEBACK = "TRAINCTL_DEBUG=1 shows the traceback"


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
            record = RunRecord.again(directory)
            record.before = None
            record_failure(record, error)


def record_failure(record: RunRecord, error: BaseException) -> None:
    """Write into ``run.json`` how ``error`` ended the run; the record of a resumed one to which nothing has
    happened yet stays as it was."""
    if record.before is not None:
        record.values = record.before
        with contextlib.suppress(OSError):
            record.write()
        return
    told = as_told(error, "writing the run")
    unforeseen = not isinstance(error, TrainctlError | OSError | KeyboardInterrupt | Stopped)
    log.error("%s: %s", told.status, told, exc_info=error if unforeseen else None)
    with contextlib.suppress(OSError):  # the disk that failed the run may fail this, too
        record.update(status=told.status, exit_code=told.exit_code, reason=masked(str(told)), ended=now())


def as_told(error: BaseException, doing: str) -> TrainctlError:
    """``error`` as a user reads it, with its exit code; ``doing``: what an OSError has interrupted."""
    if isinstance(error, ConfigError | KeyboardInterrupt | Stopped) or not isinstance(
        error, TrainctlError | OSError
    ):
        # A library may have taken a signal for an error of its own.
        found = signal_behind(error)
        if isinstance(found, Stopped):
            return found.error
        if isinstance(found, KeyboardInterrupt):
            return InterruptedRunError("interrupted")
    if isinstance(error, TrainctlError):
        return error
    if isinstance(error, OSError):
        return storage_error(error, doing)
    if (known := torch_error(error)) is not None:
        return known
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return ConfigError("a name or a path has a NUL character", "leave it out")
    if isinstance(error, RuntimeError) and "determine home directory" in str(error):
        return ConfigError("a path begins with ~NAME, and there is no such user", "write it in full")
    if lacks_memory(error):
        return ConfigError(f"torch cannot be loaded: {error}", "see ulimit -v, or free memory")
    from trainctl.registry import plugins  # not needed by a program that goes well

    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    if (where := plugins.blamed(error)) is not None:
        return ConfigError(f"{where}: {reason}", _TRACEBACK)
    return TrainctlError(f"internal error: {reason}", _TRACEBACK)


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
