"""How a run ended that did not end well, written into ``run.json``. Imports no torch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from trainctl.errors import ConfigError, StorageError, TrainctlError, storage_error
from trainctl.runs import directory as rundir
from trainctl.training.interrupts import Stopped

log = logging.getLogger("trainctl")


def record_stop(directory: Path, error: BaseException) -> None:
    """Write into ``run.json`` what stopped a run before it could do so itself."""
    with contextlib.suppress(ConfigError, OSError):
        if rundir.read_record(directory).get("status") == "running":
            record_failure(rundir.RunRecord.again(directory), error)


def record_failure(record: rundir.RunRecord, error: BaseException) -> None:
    """Write into ``run.json`` how ``error`` ended the run."""
    if isinstance(error, OSError):
        error = storage_error(error, "writing the run")
    if isinstance(error, TrainctlError):
        status, code, reason = error.status, error.exit_code, str(error)
    elif isinstance(error, Stopped):
        status, code, reason = error.error.status, error.error.exit_code, str(error.error)
    elif isinstance(error, KeyboardInterrupt):
        status, code, reason = "interrupted", 130, "interrupted"
    else:
        status, code, reason = "failed", 1, f"{type(error).__name__}: {error}"
    unforeseen = code == 1 and not isinstance(error, TrainctlError)
    log.error("%s: %s", status, reason, exc_info=error if unforeseen else None)
    with contextlib.suppress(OSError):  # the disk that failed the run may fail this, too
        record.update(status=status, exit_code=code, reason=reason, ended=rundir.now())


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """What the disk refuses inside is a StorageError (exit 5)."""
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
