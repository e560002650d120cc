"""Starts the other processes of a run on this machine, and ends them. Imports no torch.

The process that was called is rank 0, so that a run on several devices has the display, the lock, the signals
and the exit code of any other; the others are its children and load torch while it does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainctl.distributed.context import World
from trainctl.distributed.watch import watched
from trainctl.errors import InterruptedRunError, RankError, TrainctlError, UnsafeInputError

Process = subprocess.Popen
_GRACE, _GRACE_AFTER_ERROR, _LAST_LINES, _ERROR = 10.0, 3.0, 3, "error: "
_MODULE = "trainctl.cli.rank"
LEFT_ALONE = 75
"""Exit code of a rank whose own part went well, and that another one has left."""
_STOPPED = (None, 0, 128 + signal.SIGINT, 128 + signal.SIGTERM)


class Ranks:
    """The processes of ranks 1 to ``size - 1``, as a context manager that leaves none behind.

    Each reads one line from its standard input, the run to do, and ends where that closes: it ends with this
    process however this one ends. What it writes goes to ``logs/rank-N.log``.
    """

    def __init__(self, size: int, directory: Path) -> None:
        self.world = World(0, size, 0, size)
        self.directory = directory
        self._children: list[subprocess.Popen[bytes]] = []
        self._watch, self._interrupted = contextlib.ExitStack(), False

    def __enter__(self) -> Ranks:
        for rank in range(1, self.world.size):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.world.size}
            environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
            environment["LOCAL_WORLD_SIZE"] = environment["WORLD_SIZE"]
            with open_rank_log(self.directory, rank) as log:
                child = Process(
                    [sys.executable, "-P", "-m", _MODULE],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches rank 0 alone, who tells the others
                )
            self._children.append(child)
        self._watch.enter_context(watched(self._interrupt, self._left))
        return self

    def __exit__(self, *error: object) -> None:
        self._watch.close()
        until = time.monotonic() + (0.0 if error[0] else _GRACE)
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, until - time.monotonic()))
        for child in self._children:
            with contextlib.suppress(OSError):
                child.stdin.close()  # type: ignore[union-attr]
        until = time.monotonic() + (_GRACE_AFTER_ERROR if error[0] else _GRACE)
        for child in self._children:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def tell(self, message: Mapping[str, Any]) -> None:
        """Give each of them the run to do."""
        line = json.dumps(message).encode() + b"\n"
        for child in self._children:
            with contextlib.suppress(BrokenPipeError):  # it has gone, and the first agreement will say so
                child.stdin.write(line)  # type: ignore[union-attr]
                child.stdin.flush()  # type: ignore[union-attr]

    def require_all(self) -> None:
        """Raise RankError where one of them has failed."""
        if (failed := self.failure(wait=0.0)) is not None:
            raise failed

    def failure(self, wait: float = 5.0, timeout: float | None = None) -> TrainctlError | None:
        """How the first of them failed, within ``wait`` seconds; None where none did.

        Those that others have left do not count. With ``timeout``, seconds that one had to answer, those
        that still run then are the ones that hang.
        """
        if self._interrupted:
            return InterruptedRunError("interrupted")
        until = time.monotonic() + wait
        while True:
            codes = {rank: child.poll() for rank, child in enumerate(self._children, 1)}
            for rank, code in codes.items():
                if code not in (None, 0, LEFT_ALONE):
                    return failed_rank(self.directory, rank, code)
            if time.monotonic() >= until or all(code is not None for code in codes.values()):
                break
            time.sleep(0.05)
        hung = [rank for rank, code in codes.items() if code is None]
        if timeout is None or not hung:
            return None
        said = f"rank {hung[0]} did not answer for {timeout:g} s"
        return RankError(
            said, f"{rank_log(self.directory, hung[0])} shows where it was; trainctl resume goes on"
        )

    def _left(self) -> TrainctlError | None:
        """How the run has failed, as far as it is known now: a signal stops all of them, rank 0 last."""
        if all(child.poll() in _STOPPED for child in self._children):
            return None
        return self.failure(wait=0.0) or RankError(
            "rank 0 did not answer the others in time", "trainctl resume goes on from the last checkpoint"
        )

    def _interrupt(self) -> None:
        self._interrupted = True
        for child in self._children:
            child.kill()


def failed_rank(directory: Path, rank: int, code: int) -> RankError:
    """The error for a rank that ended with ``code``, negative for a signal, with its last lines."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    path, remedy = rank_log(directory, rank), ""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip()]
        last = lines[-_LAST_LINES:]
        if code > 0 and (errors := [line for line in last if line.startswith(_ERROR)]):
            last = last[last.index(errors[-1]) :]
            remedy = f"{' '.join(last[1:])}; " if last[1:] else ""
            last = [last[0].removeprefix(_ERROR)]
        if code > 0 and last:
            how += f": {' '.join(last)}"
    error = RankError(
        f"rank {rank} {how}", f"{remedy}see {path}; trainctl resume goes on from the last checkpoint"
    )
    if code > 0 and code != 1:
        error.exit_code = code
    return error


def rank_log(directory: Path, rank: int) -> Path:
    """Where a rank other than 0 writes."""
    return directory / "logs" / f"rank-{rank}.log"


def open_rank_log(directory: Path, rank: int) -> Any:
    """The log of a rank, open for appending. Raises UnsafeInputError where a link or a pipe has its name."""
    path = rank_log(directory, rank)
    path.parent.mkdir(exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UnsafeInputError(f"{path} is not a regular file", "remove it: trainctl did not create it")
    return path.open("ab")


def own_log(directory: Path, rank: int) -> None:
    """Have this process write to its log from here on, where it sees the run's directory."""
    if directory.is_dir():
        with open_rank_log(directory, rank) as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())


def end_with_parent() -> str:
    """In a rank: the line that says which run to do. From then on the process ends where rank 0 does."""
    # Unbuffered: a thread that waits in sys.stdin keeps its lock, at which the interpreter's end would abort.
    line = b""
    while not line.endswith(b"\n") and (more := os.read(0, 1 << 16)):
        line += more

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        time.sleep(1.0)  # an orderly end of its own comes first
        traceback.print_stack(sys._current_frames().get(threading.main_thread().ident or 0))
        sys.stderr.flush()
        os._exit(RankError.exit_code)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    return line.decode()
