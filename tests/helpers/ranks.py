"""Ranks that are forked from the warm test process: to start one anew takes the seconds of torch's import."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import pytest
import torch

from trainctl.checkpoint.format import read_checkpoint
from trainctl.cli import rank
from trainctl.cli.main import answered
from trainctl.distributed import launch


class ForkedRank:
    """What :class:`trainctl.distributed.launch.Ranks` needs of subprocess.Popen.

    They cannot start data workers: the server that forks those belongs to the test process.
    """

    started: ClassVar[list[ForkedRank]] = []

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **others: Any) -> None:
        assert command == [sys.executable, "-m", "trainctl.cli.rank"]
        read, write = os.pipe()
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._live(read, write, stdout.fileno(), env)
        os.close(read)
        self.started.append(self)
        self.stdin: BinaryIO = os.fdopen(write, "wb")

    def _live(self, read: int, write: int, log: int, env: dict[str, str]) -> None:
        code = 70
        try:
            # Earlier groups belong to threads that a fork lacks: to free them would wait for those.
            gc.freeze()
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
            faulthandler.dump_traceback_later(20, file=sys.stderr)  # where it hangs, should it hang
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
def warm_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The other ranks of a test's runs are forks of the test process, and none is left after it."""
    monkeypatch.setattr(launch, "Process", ForkedRank)
    # Where a backward pass through FSDP is a process's first, torch refuses those of its forks.
    torch.ones((), requires_grad=True).backward()
    ForkedRank.started.clear()
    yield
    left = [rank.pid for rank in ForkedRank.started if rank.returncode is None]
    assert not left


def rows(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def weights(run: str) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint, whatever number of processes wrote it."""
    return dict(read_checkpoint(sorted(Path(run, "checkpoints").glob("step-*"))[-1]).model)


def assert_same_run(one: str, other: str, tolerance: float = 2e-6) -> None:
    """Every loss, every evaluation that both have, and the final weights."""
    mine, theirs = ({(row["step"], *row): row for row in rows(run)} for run in (one, other))
    both = [(row, theirs[key]) for key, row in mine.items()]
    assert len(both) > 8
    for left, right in both:
        for key, value in left.items():
            if key in ("samples_per_second", "seconds"):
                continue
            assert right[key] == pytest.approx(value, rel=tolerance, abs=tolerance), (key, left["step"])
    final = weights(other)
    for name, tensor in weights(one).items():
        assert torch.allclose(tensor, final[name], rtol=1e-4, atol=20 * tolerance), name
