"""Train once: lock the directory, do the run, record how it ended. Imports no torch before it trains."""

from __future__ import annotations

import contextlib
from typing import Any

from trainctl.distributed.context import launched
from trainctl.distributed.launch import Ranks
from trainctl.runs.directory import lock
from trainctl.runs.git_state import GitState, read_git_state
from trainctl.runs.record import RunRecord
from trainctl.training.display import Display
from trainctl.training.failures import record_failure, storage_errors
from trainctl.training.interrupts import Stopped
from trainctl.training.log_file import log, log_file
from trainctl.training.request import Request
from trainctl.training.startup import importing


def train(request: Request, display: Display) -> dict[str, Any]:
    """Do one run; returns the values of its ``run.json``. A resumed one is locked already.

    Raises TrainctlError when it fails; ``run.json`` then has the status and the reason.
    """
    directory = request.directory
    locked = lock(directory) if request.resumed is None else contextlib.nullcontext()
    with locked, log_file(directory), storage_errors(directory), contextlib.ExitStack() as ended:
        record = open_record(request, read_git_state() if request.resumed is None else None)
        try:
            # torch is imported here, after the config was checked and the directory locked.
            with _ranks(request) as ranks:
                with importing():
                    from trainctl.training.session import Session
                    from trainctl.training.together import together

                with together(request, record, ranks) as group:
                    Session(request, record, display, group, ended).run()
        except BaseException as error:
            display.close()
            if record.values["status"] != "done" or not isinstance(error, KeyboardInterrupt | Stopped):
                record_failure(record, error)
            raise
    return record.values


def _ranks(request: Request) -> contextlib.AbstractContextManager[Ranks | None]:
    """The other processes of the run, to be started; None for one device, or where a launcher did it."""
    count, alone = request.config.devices, contextlib.nullcontext()
    if launched() is not None:
        return alone
    if count == "auto":
        with importing():
            from trainctl.training.runtime import count_devices
        count = count_devices(request.config.device)
    return alone if count == 1 else Ranks(count, request.directory)


def open_record(request: Request, git: GitState | None) -> RunRecord:
    """The record of a run that begins, with the repository's state in ``git``, or of one that is resumed."""
    directory, name = request.directory, request.config.name
    if request.resumed is not None:
        return RunRecord.again(directory, **request.resumed.recorded(request.command), name=name)
    stored = None if git is None else git.store(directory)
    for left_out in () if git is None else git.left_out:
        log.info("git.diff leaves out %s", left_out)
    return RunRecord(directory, command=request.command, name=name, git=stored)
