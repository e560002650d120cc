"""What the verbs do with a run that somebody else has prepared, as Python's audit events tell it: nothing is
written outside the folder, no socket opened, no process started, no code of the run's imported."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.reliability.children import Trial, spawn
from tests.reliability.runs import RUN
from trainctl.cli.main import main
from trainctl.registry import plugins, trust

_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
_SOCKETS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname")
_CHANGES = (
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
VERBS: dict[str, tuple[str, ...]] = {
    "resume": ("resume", str(RUN), "train.max_steps=20", "--allow-change"),
    "eval": ("eval", str(RUN)),
    "verify": ("verify", str(RUN)),
    "export": ("export", str(RUN), "--format", "safetensors", "--output", "m.safetensors"),
    "compare": ("compare", str(RUN)),
    "ls": ("ls",),
}


def verbs(intact: Path) -> list[Trial]:
    """Each verb, with the run as it is and with each thing in it. ``intact`` is the run."""
    plants = {"as it is": lambda run: None, "with a plugin": _plugin, "with a reference": _reference}
    return [
        Trial(f"{verb}, {name}", partial(_tried, words, plant, intact))
        for verb, words in VERBS.items()
        for name, plant in plants.items()
    ]


def bites(intact: Path) -> list[Trial]:
    """The same with nothing that asks whose the plugins are: the import must be seen."""

    def seen(folder: Path) -> str | None:
        def trust_all() -> None:
            trust.refuse_untrusted = lambda named, directory: None

        wrong = _tried(VERBS["eval"], _plugin, intact, folder, trust_all)
        return None if wrong is not None and "code of the run" in wrong else f"nothing was noticed: {wrong}"

    return [Trial("the plugins of every run trusted", seen)]


def _tried(
    words: Sequence[str],
    plant: Callable[[Path], object],
    intact: Path,
    folder: Path,
    patch: Callable[[], object] = lambda: None,
) -> str | None:
    shutil.copytree(intact, folder / RUN, symlinks=True)
    plant(folder / RUN)
    report = folder / "audit"

    def work() -> int:
        patch()
        descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sys.addaudithook(partial(_watch, str(folder), descriptor))
        return main(list(words))

    ended = spawn(work, folder)
    if "error: internal" in ended.text or ended.timed_out:
        return f"ended wrongly: {ended}"
    refuses = plant in (_plugin, _reference) and words[0] not in ("compare", "ls")
    found = report.read_text().splitlines()
    if not found and ended.code != (3 if refuses else 0):
        return f"ended otherwise: {ended}"
    return f"{found[0]} ({len(found)} in all): {ended}" if found else None


def _watch(folder: str, descriptor: int, event: str, arguments: tuple[Any, ...]) -> None:
    reason = _reason(folder, event, arguments)
    if reason is not None:
        os.write(descriptor, f"{reason}\n".encode(errors="replace"))


def _reason(folder: str, event: str, arguments: tuple[Any, ...]) -> str | None:
    """What is wrong with an event, or None."""
    if event in _PROCESSES:
        return f"a process: {event} {arguments!r:.200}"
    if event in _SOCKETS:
        return f"a socket: {event} {arguments!r:.200}"
    if event == "exec" and str(getattr(arguments[0], "co_filename", "")).startswith(folder):
        return f"code of the run: {arguments[0].co_filename}"
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        return _outside(folder, event, arguments[:1])
    if event in _CHANGES:
        return _outside(folder, event, arguments[:2])
    return None


def _outside(folder: str, event: str, places: Sequence[Any]) -> str | None:
    for place in places:
        if not isinstance(place, str | bytes | os.PathLike):
            continue  # a descriptor, or the mode of a folder
        path = os.path.abspath(os.fsdecode(place))  # noqa: PTH100 - no links are followed
        own = (folder, os.environ["XDG_CACHE_HOME"], os.environ["XDG_STATE_HOME"], os.devnull)
        if not path.startswith(own):
            return f"written outside: {event} {path}"
    return None


def _plugin(run: Path) -> None:
    file = run / "evil.py"
    file.write_text("import os\nos.mkdir('canary')\n")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("plugins: []", f"plugins: [{file}]"))
    record = json.loads((run / "run.json").read_text())
    stored = {"name": str(file), "path": str(file), "sha256": plugins.digest(file)}
    record["environment"]["plugins"] = [stored]
    (run / "run.json").write_text(json.dumps(record))


def _reference(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("name: null", "name: ${oc.env:HOME}", 1))
