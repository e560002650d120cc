"""Trials in forked children of a process that has imported everything and computed nothing."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TIMEOUT = 30.0
_codes: Counter[int] = Counter()
"""How the children of this process ended."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: its exit code; minus the signal's number when one killed it.
        timed_out: it was stuck, and killed for it.
        megabytes: the most memory it had.
        text: what it printed.
    """

    code: int
    timed_out: bool
    megabytes: float
    text: str

    def __str__(self) -> str:
        how = "stuck" if self.timed_out else f"ended with {self.code}"
        return f"{how}, having said:\n" + "\n".join(self.text.splitlines()[-25:])


def spawn(
    work: Callable[[], int | None],
    folder: Path,
    *,
    timeout: float = _TIMEOUT,
    kill_after: float | None = None,
    room: int | None = None,
) -> Ended:
    """Do ``work`` in a child whose current folder is ``folder``; its result is the exit code.

    Args:
        kill_after: SIGKILL it after so many seconds, unless it ends before.
        room: megabytes of memory it may have on top of what it begins with.
    """
    output = folder / ".output"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(work, folder, output, room)
    until = time.monotonic() + (timeout if kill_after is None else kill_after)
    timed_out = False
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            timed_out = kill_after is None
            _, status, used = os.wait4(child, 0)
            break
        time.sleep(0.001)
    text = output.read_text(errors="replace") if output.exists() else ""
    output.unlink(missing_ok=True)
    unit = 1024 if sys.platform != "darwin" else 1024**2
    code = os.waitstatus_to_exitcode(status)
    count(code)
    return Ended(code, timed_out, used.ru_maxrss / unit, text)


def count(code: int) -> None:
    """Note how a child has ended."""
    _codes[code] += 1


def _be_child(work: Callable[[], int | None], folder: Path, output: Path, room: int | None) -> None:
    code = 98
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(number, target)
        os.chdir(folder)
        if room is not None:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + (room << 20),) * 2)
        code = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


@dataclass(frozen=True)
class Trial:
    """Something tried.

    Attributes:
        name: what it is.
        run: does it, in a folder of its own; returns what went wrong.
        count: how many trials it stands for.
    """

    name: str
    run: Callable[[Path], str | None]
    count: int = 1


@dataclass(frozen=True)
class Row:
    """A kind of trial, done: how many, which were missed and why, how long it took, and how many processes
    ended with each exit code."""

    kind: str
    trials: int
    missed: list[str]
    seconds: float
    codes: Mapping[int, int] = field(default_factory=dict)


def try_all(kind: str, trials: Sequence[Trial], root: Path) -> Row:
    """Do the trials, several at a time."""
    started = time.monotonic()
    if not trials:
        return Row(kind, 0, ["there was nothing to try"], 0.0)
    lanes = min(max(2, min(8, os.cpu_count() or 2)), len(trials))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in range(len(trials)):
        os.write(writing, number.to_bytes(2, "little"))
    os.close(writing)
    workers = {}
    for lane in range(lanes):
        place = root / f"lane-{lane}"
        place.mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            _be_lane(trials, reading, place)
        workers[child] = place
    os.close(reading)
    done: dict[int, str | None] = {}
    codes: Counter[int] = Counter()
    for child, place in workers.items():
        os.waitpid(child, 0)
        for line in (place / "results").read_text().splitlines():
            number, done[number], ended = json.loads(line)
            codes.update(ended)
        shutil.rmtree(place)
    missed = []
    for number, trial in enumerate(trials):
        if (wrong := done.get(number, "the trial itself broke down")) is not None:
            missed.append(f"{trial.name}: {wrong}")
    number = sum(trial.count for trial in trials)
    return Row(kind, number, missed, time.monotonic() - started, dict(sorted(codes.items())))


def none_missed(trials: Sequence[Trial], folder: Path) -> str | None:
    """Trials of a program without a safeguard, until one is missed, as one must be."""
    for number, trial in enumerate(trials):
        place = folder / str(number)
        place.mkdir()
        if trial.run(place) is not None:
            return None
        shutil.rmtree(place)
    return "nothing was missed"


def _be_lane(trials: Sequence[Trial], jobs: int, place: Path) -> None:
    code = 1
    try:
        with (place / "results").open("w") as results:
            while job := os.read(jobs, 2):
                number = int.from_bytes(job, "little")
                folder = place / "trial"
                folder.mkdir()
                _codes.clear()
                try:
                    wrong = trials[number].run(folder)
                except Exception:
                    wrong = traceback.format_exc()
                results.write(json.dumps([number, wrong, list(_codes.elements())]) + "\n")
                results.flush()
                shutil.rmtree(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
