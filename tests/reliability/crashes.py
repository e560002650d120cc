"""Runs that are killed, or whose disk fails, at every single file operation, and at any time."""

from __future__ import annotations

import copy
import errno
import logging
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.reliability.children import Trial, spawn
from tests.reliability.disk import AFTER, BEFORE, HALF, Disk, failing, killing
from tests.reliability.runs import OUTPUTS, RUN, Course, Patch, carry_on, half_made, mark_saves, nothing
from trainctl.checkpoint.format import MODEL
from trainctl.cli.main import main

# ------------------------------------------------------------------- killed


def at_every_operation(course: Course, patch: Patch = nothing, first: int = 0) -> list[Trial]:
    """SIGKILL before each operation from ``first`` on, after the last, and in the middle of each write.

    After one is before the next: nothing on the disk changes between them.
    """
    trials = []
    last = len(course.names) - 1
    for number, name in enumerate(course.names[first:], first):
        for when in (BEFORE, *((HALF,) if name == "write" else ()), *((AFTER,) if number == last else ())):
            trials.append(
                Trial(
                    f"killed {when} operation {number}, {name}", partial(_killed, course, number, when, patch)
                )
            )
    return trials


def _killed(course: Course, number: int, when: str, patch: Patch, folder: Path) -> str | None:
    (folder / OUTPUTS).mkdir()

    def work() -> int:
        patch()
        Disk(folder / OUTPUTS, killing(number, when)).install()
        return course.start()

    ended = spawn(work, folder)
    if ended.code != -signal.SIGKILL or ended.timed_out:
        return f"was not killed: {ended}"
    done = number + (when == AFTER)
    return half_made(folder, course) or carry_on(course, folder, course.saved_before(done), patch)


def in_the_resume(course: Course, root: Path, *words: str) -> list[Trial]:
    """SIGKILL at each operation of a resume that has a damaged checkpoint to set aside.

    ``words`` are changes that it makes; the same command, given again, must come to the same end.
    """
    root.mkdir()
    (root / OUTPUTS).mkdir()
    _break_in_the_middle(course, root)
    command, broken, whole = ["resume", str(RUN), *words], root / "broken", copy.copy(course)
    shutil.copytree(root / OUTPUTS, broken, symlinks=True)
    names = root / "names"

    def counted() -> int:
        disk = Disk(root / OUTPUTS)
        mark_saves(disk)
        disk.install()
        code = main(command)
        # From its first save on, one with changes does what one without does.
        until = next(op[1] for op in disk.ops if op[0] == "mark") if words else len(disk.names)
        names.write_text(" ".join(disk.names[:until]))
        return code

    ended = spawn(counted, root)
    if ended.code:
        return [Trial("a resume in peace", lambda folder: str(ended))]
    if words:
        _take_away_damaged(root)
        whole.remember(root / RUN)
    said = f"resume {' '.join(words)} killed" if words else "resume killed"
    return [
        Trial(
            f"{said} {when} operation {number}, {name}",
            partial(_resume_killed, whole, broken, command, number, when),
        )
        for number, name in enumerate(names.read_text().split())
        for when in ((BEFORE, HALF) if name == "write" else (BEFORE,))
    ]


def _break_in_the_middle(course: Course, folder: Path) -> None:
    """Kill a run after its third save, two checkpoints being there, and damage the newer one."""

    def work() -> int:
        Disk(folder / OUTPUTS, killing(course.saved[2][0], BEFORE)).install()
        return course.start()

    spawn(work, folder)
    newest = max((folder / RUN / "checkpoints").glob("step-*"))
    content = (newest / MODEL).read_bytes()
    (newest / MODEL).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _take_away_damaged(folder: Path) -> None:
    """The one thing that the run left in peace does not have."""
    (damaged,) = (folder / RUN / "checkpoints").glob("damaged-*")
    shutil.rmtree(damaged)


def _resume_killed(
    course: Course, broken: Path, command: list[str], number: int, when: str, folder: Path
) -> str | None:
    shutil.copytree(broken, folder / OUTPUTS, symlinks=True)

    def work() -> int:
        Disk(folder / OUTPUTS, killing(number, when)).install()
        return main(command)

    ended = spawn(work, folder)
    if ended.code != -signal.SIGKILL or ended.timed_out:
        return f"was not killed: {ended}"
    ended = spawn(partial(main, command), folder)
    if ended.code:
        return str(ended)
    _take_away_damaged(folder)
    return course.difference(folder / RUN)


def at_any_time(course: Course, count: int, seed: int) -> list[Trial]:
    """SIGKILL at random times, the writing thread running; every fourth is killed three times."""
    return [
        Trial(
            f"killed at a random time, {number}",
            partial(_killed_at_times, course, seed + number, 3 if number % 4 == 0 else 1),
        )
        for number in range(count)
    ]


def _killed_at_times(course: Course, seed: int, kills: int, folder: Path) -> str | None:
    (folder / OUTPUTS).mkdir()
    draw = random.Random(seed)
    work: Callable[[], int] = course.start
    for _ in range(kills):
        ended = spawn(work, folder, kill_after=draw.uniform(0.15, 1.05) * course.seconds)
        if ended.code not in (-signal.SIGKILL, 0, 4):
            return str(ended)
        if wrong := half_made(folder, course):
            return wrong
        if (folder / RUN / "checkpoints").is_dir():
            work = partial(main, ["resume", str(RUN)])
    return carry_on(course, folder, None)


def timed(course: Course, folder: Path) -> None:
    """How long the command takes, as a child."""
    folder.mkdir()
    (folder / OUTPUTS).mkdir()
    started = time.monotonic()
    spawn(course.start, folder)
    course.seconds = time.monotonic() - started


# ------------------------------------------------------------------- no room, and broken disks


def with_errors(course: Course, code: int, *, forever: bool) -> list[Trial]:
    """Each operation fails with the error ``code``; ``forever``: those after it, too."""
    return [
        Trial(
            f"{errno.errorcode[code]} at operation {number}, {name}",
            partial(_failed, course, number, code, forever),
        )
        for number, name in enumerate(course.names)
    ]


def _failed(course: Course, number: int, code: int, forever: bool, folder: Path) -> str | None:
    (folder / OUTPUTS).mkdir()

    def work() -> int:
        Disk(folder / OUTPUTS, failing(number, code, forever=forever)).install()
        return course.start()

    ended = spawn(work, folder)
    if ended.code not in (0, 5):
        return str(ended)
    if "Traceback" in ended.text or (ended.code == 5 and "error:" not in ended.text):
        return f"said the wrong thing: {ended}"
    if wrong := half_made(folder, course):
        return wrong
    if ended.code == 0:
        # An old folder that would not go is left for the next start.
        return course.difference(folder / RUN, tidy=False)
    return carry_on(course, folder, course.saved_before(number))


def with_a_full_log(course: Course) -> Trial:
    """There is no room for train.log, which a run does without."""

    def run(folder: Path) -> str | None:
        (folder / OUTPUTS).mkdir()

        def work() -> int:
            logging.FileHandler._open = lambda handler: open("/dev/full", "a")  # noqa: PTH123, SIM115
            return course.start()

        ended = spawn(work, folder)
        return str(ended) if ended.code or ended.text else course.difference(folder / RUN)

    return Trial("ENOSPC for every line of train.log", run)
