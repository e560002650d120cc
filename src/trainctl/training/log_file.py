"""``train.log``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from trainctl.errors import storage_error
from trainctl.runs.printable import ShownFormatter

log = logging.getLogger("trainctl")


@contextlib.contextmanager
def open_log(directory: Path) -> Iterator[logging.Handler]:
    """``train.log``, open inside. Raises StorageError."""
    try:
        handler = logging.FileHandler(directory / "train.log", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, "writing the run") from error
    # A full disk must not end the run for a line of the log, nor print a traceback.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.setFormatter(ShownFormatter("%(asctime)s %(levelname)s %(message)s"))
    try:
        yield handler
    finally:
        with contextlib.suppress(OSError):
            handler.close()


@contextlib.contextmanager
def logged_to(handler: logging.Handler) -> Iterator[None]:
    """Send the log of the block to ``handler``."""
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


@contextlib.contextmanager
def log_file(directory: Path) -> Iterator[None]:
    """Send the log of the block to ``train.log``."""
    with open_log(directory) as handler, logged_to(handler):
        yield
