"""A run that is mirrored, killed in the middle of each upload, and beside servers that fail: what is on the
bucket goes on to the same end, or was never said to be there."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.reliability.children import Trial, none_missed, spawn
from tests.reliability.runs import OUTPUTS, SHORT, Course, Patch, nothing
from trainctl.checkpoint import mirrored
from trainctl.checkpoint.remote import RemoteStore
from trainctl.checkpoint.store import MANIFEST
from trainctl.cli.main import main
from trainctl.training.hooks.mirror import Mirror

KILLS = 30
_FAULTS = ("500-1", "500-3", "500-6", "slow-40", "half-1", "half-3", "half-9", "refused-2", "refused-4")


def trials(course: Course, folder: Path) -> list[Trial]:
    """Kills on a disk and on an S3 server; faults of that server."""
    server = _Server(folder)
    kills = [
        Trial(f"killed at write {number} to {where}", partial(_killed, course, url, number))
        for number in range(1, KILLS)
        for where, url in (("a disk", None), ("S3", f"s3://bucket/killed/{number}"))
        if url is None or number % 3 == 0
    ]
    failing = [Trial(each, partial(_outage, course, f"s3://bucket/{each}/run")) for each in _FAULTS]
    return [Trial(each.name, partial(server.serving, each.run)) for each in (*kills, *failing)]


def bites(course: Course) -> list[Trial]:
    """Where the manifest is written first, some kill loses what was said to be there."""
    kills = [
        Trial(f"killed at write {number}", partial(_killed, course, None, number, patch=_manifest_first))
        for number in range(8, KILLS)
    ]
    return [Trial("manifest first", partial(none_missed, kills))]


def _manifest_first() -> None:
    copy_set = mirrored.copy_set

    def early(source: Any, target: Any, name: str, *others: Any, **settings: Any) -> bytes:
        if isinstance(target, RemoteStore):
            target.commit(name, source.get(name, MANIFEST, 1 << 20))
        return copy_set(source, target, name, *others, **settings)

    mirrored.copy_set = early


class _Server:
    """moto's S3 server in a process of its own, which ends with this one."""

    def __init__(self, folder: Path) -> None:
        importlib.import_module("s3fs")
        root = Path(__file__).parents[2]
        paths = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.bucket"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }

    def serving(self, work: Callable[[Path], str | None], folder: Path) -> str | None:
        """``work``, as long as the server is there."""
        return work(folder)


def _course(url: str) -> Course:
    return Course((*SHORT, f"checkpoint.mirror={url}"))


def _no_waiting() -> None:
    Mirror._pause = lambda mirror, seconds: None  # type: ignore[method-assign]


def _killing(number: int) -> None:
    """SIGKILL in the middle of the write ``number`` to the bucket."""
    put, seen = RemoteStore.put, [0]

    def killed(store: RemoteStore, name: str, file: str, pieces: Any) -> None:
        seen[0] += 1
        if seen[0] == number:
            put(store, name, file, [half[: len(half) // 2] for half in pieces])
            os.kill(os.getpid(), signal.SIGKILL)
        put(store, name, file, pieces)
        if file == MANIFEST and name.startswith("step-"):
            Path("committed").write_text(name.removeprefix("step-"))

    RemoteStore.put = killed  # type: ignore[method-assign]


def _killed(course: Course, url: str | None, number: int, folder: Path, patch: Patch = nothing) -> str | None:
    url = url or f"file://{folder}/bucket/run"
    (folder / OUTPUTS).mkdir()

    def work() -> int:
        patch()
        _no_waiting()
        _killing(number)
        return _course(url).start()

    ended = spawn(work, folder, timeout=90)
    if ended.code not in (0, -signal.SIGKILL) or ended.timed_out:
        return f"mirrored run {ended}"
    return _carried_on(course, url, folder, finished=ended.code == 0)


def _outage(course: Course, url: str, folder: Path) -> str | None:
    (folder / OUTPUTS).mkdir()

    def work() -> int:
        _no_waiting()
        return _course(url).start()

    ended = spawn(work, folder, timeout=90)
    if ended.code or ended.timed_out:
        return f"mirrored run {ended}"
    noted = json.loads((folder / OUTPUTS / "run/run.json").read_text())["mirror"]
    if noted["lacks"] or noted["error"]:
        return f"the server was there at the end, but {noted}"
    return _carried_on(course, url, folder, finished=True)


def _carried_on(course: Course, url: str, folder: Path, *, finished: bool) -> str | None:
    """Resume from the bucket alone, and compare."""
    (folder / "elsewhere").mkdir()

    def work() -> int:
        os.chdir("elsewhere")
        return main(["resume", url])

    ended, committed = spawn(work, folder, timeout=90), folder / "committed"
    if ended.code == 4 and not finished and not committed.exists():
        return None  # killed before a checkpoint was there
    if ended.code or ended.timed_out:
        return f"resume {ended}"
    (run,) = (path.parent for path in (folder / "elsewhere").glob("outputs/*/*/run.json"))
    step = (json.loads((run / "run.json").read_text()).get("resumed") or {}).get("step")
    if committed.exists() and step is not None and step < int(committed.read_text()):
        return f"step {int(committed.read_text())} was there, and the run went on from {step}"
    return course.difference(run, tidy=False)
