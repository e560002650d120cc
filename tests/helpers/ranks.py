"""Ranks that are forked from the warm test process instead of started anew: each import of torch takes seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any, BinaryIO

import pytest

from trainctl.cli import rank
from trainctl.cli.main import answered
from trainctl.distributed import launch


class ForkedRank:
    """What :class:`trainctl.distributed.launch.Ranks` needs of subprocess.Popen."""

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **others: Any) -> None:
        assert command == [sys.executable, "-m", "trainctl.cli.rank"]
        read, write = os.pipe()
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._live(read, write, stdout.fileno(), env)
        os.close(read)
        self.stdin: BinaryIO = os.fdopen(write, "wb")

    def _live(self, read: int, write: int, log: int, env: dict[str, str]) -> None:
        code = 70
        try:
            os.setsid()
            os.dup2(read, 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            # Whatever else is open belongs to the tests: the pipe of this rank above all.
            os.closerange(3, 1024)
            os.environ.clear()
            os.environ.update(env)
            sys.stdin = os.fdopen(0)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            code = answered(rank.follow)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
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


@pytest.fixture
def warm_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other ranks of a test's runs are forks of the test process."""
    monkeypatch.setattr(launch, "Process", ForkedRank)
