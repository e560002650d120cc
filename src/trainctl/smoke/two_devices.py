"""The second process of a run on two devices, forked from the first, which is a warm one."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from trainctl.errors import NotLearnedError, TrainctlError
from trainctl.training.startup import importing

with importing():
    from trainctl.training.together import follow_parent


def end_with(work: Callable[[], object]) -> None:
    """End this process once ``work`` is done, without the exit handlers of the one it was forked from."""
    code = 0
    try:
        with suppress(NotLearnedError):  # two steps cannot overfit a batch
            work()
    except TrainctlError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ForkedRank:
    """What :class:`trainctl.distributed.launch.Ranks` needs of subprocess.Popen: a fork of this process.

    It cannot start data workers: the server that forks those belongs to this process.
    """

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **others: Any) -> None:
        read, write = os.pipe()
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                # Earlier groups belong to threads that a fork lacks: to free them would wait for those.
                gc.freeze()
                os.setsid()
                for descriptor, target in ((read, 0), (stdout.fileno(), 1), (stdout.fileno(), 2)):
                    os.dup2(descriptor, target)
                # Whatever else is open belongs to the first process: the pipe of this one above all.
                os.closerange(3, 1024)
                os.environ.clear()
                os.environ.update(env)
                # A fork of this one replaces these, and must not close what they stand for.
                sys.stdin = os.fdopen(0, closefd=False)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
                self.live()
            finally:
                os._exit(1)
        os.close(read)
        self.stdin: BinaryIO = os.fdopen(write, "wb")

    def live(self) -> None:
        """In the fork: train with the first process, and end."""
        end_with(follow_parent)

    def poll(self) -> int | None:
        with suppress(ChildProcessError):  # another thread has been told
            if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired("rank", timeout or 0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
