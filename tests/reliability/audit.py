"""What a command does, as Python's audit events and the folder beside it tell: nothing is written outside
what the command was given, no socket opened, no process started, no code of the run's imported."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.reliability.children import spawn
from tests.reliability.disk import contents
from tests.reliability.runs import OUTPUTS, Patch, nothing
from tests.reliability.sweeps import workers_from_this_process
from trainctl.cli.main import main

OUTSIDE = "outside"
_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
_SOCKETS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname")
# The places among the arguments of each event, and where the descriptor of the folder of each is.
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.chmod": ((0, 2),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# A new run asks for the repository that its user is in; what the repository says must run nothing.
_GIT = ("git", "-c", "core.fsmonitor=false")


@dataclass(frozen=True)
class Audited:
    """A command, tried on what somebody else has prepared.

    Attributes:
        words: the command, called in the folder that has ``outputs``.
        plant: prepares; its arguments are ``outputs`` and a folder that is no business of the command's.
        codes: the exit codes that are right.
        given: what it may write to, below its current folder.
    """

    name: str
    words: tuple[str, ...]
    plant: Callable[[Path, Path], object]
    codes: tuple[int, ...]
    given: tuple[str, ...] = ()
    seconds: float = 30.0


def tried(audited: Audited, made: Path, folder: Path, patch: Patch = nothing) -> str | None:
    """Do it on a copy of ``made``, a folder that has ``outputs``; returns what went wrong."""
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    outside = folder / OUTSIDE
    outside.mkdir()
    (outside / "file").write_text("not ours\n")
    audited.plant(folder / OUTPUTS, outside)
    before, report = contents(outside), folder / "audit"
    allowed = [str(folder / each) for each in audited.given]
    allowed += [os.environ["XDG_CACHE_HOME"], os.environ["XDG_STATE_HOME"], os.devnull, tempfile.gettempdir()]

    def work() -> int:
        patch()
        workers_from_this_process()
        descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        watch = _Watch(str(folder), [place for place in allowed if not str(folder).startswith(place)])
        sys.addaudithook(partial(watch, descriptor))
        return main(list(audited.words))

    ended = spawn(work, folder, timeout=audited.seconds)
    if "error: internal" in ended.text or "Traceback (" in ended.text or ended.timed_out:
        return f"ended wrongly: {ended}"
    if found := report.read_text().splitlines():
        return f"{found[0]} ({len(found)} in all): {ended}"
    if contents(outside) != before:
        return f"something outside was changed: {ended}"
    if list(folder.rglob("canary")):
        return f"code was run: {ended}"
    return None if ended.code in audited.codes else f"expected {audited.codes}: {ended}"


class _Watch:
    """Writes a line for each event that must not be."""

    def __init__(self, folder: str, allowed: Sequence[str]) -> None:
        self._folder, self._allowed = folder, tuple(allowed)

    def __call__(self, descriptor: int, event: str, arguments: tuple[Any, ...]) -> None:
        reason = self._reason(event, arguments)
        if reason is not None:
            os.write(descriptor, f"{reason}\n".encode(errors="replace"))

    def _reason(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        """What is wrong with an event, or None."""
        if event in _PROCESSES:
            asks_git = event == "subprocess.Popen" and tuple(arguments[1][:3]) == _GIT
            return None if asks_git else f"a process: {event} {arguments!r:.200}"
        if event in _SOCKETS:
            return f"a socket: {event} {arguments!r:.200}"
        if event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith(self._folder):
            return f"code of the run: {arguments[0].co_filename}"
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            # A link that is not followed is refused by the system.
            return self._outside(event, arguments[0], follows=not arguments[2] & os.O_NOFOLLOW)
        for place, above in _CHANGES.get(event, ()):
            beside = -1 if above is None else arguments[above]
            if wrong := self._outside(event, arguments[place], beside=beside):
                return wrong
        return None

    def _outside(self, event: str, place: Any, *, follows: bool = False, beside: int = -1) -> str | None:
        if not isinstance(place, str | bytes | os.PathLike):
            return None  # a descriptor, which was opened before
        path = os.fsdecode(place)
        if beside != -1:
            path = os.path.join(os.readlink(f"/proc/self/fd/{beside}"), path)  # noqa: PTH115, PTH118
        path = os.path.abspath(path)  # noqa: PTH100
        folder, name = os.path.split(path)
        real = os.path.realpath(path) if follows else os.path.join(os.path.realpath(folder), name)  # noqa: PTH118
        return None if real.startswith(self._allowed) else f"written outside: {event} {path} ({real})"
