"""The runs that the trials break, and the one that was left in peace, which they must equal."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.reliability.children import Ended, spawn
from tests.reliability.disk import Disk, Op
from trainctl.checkpoint.format import MODEL, STATE, TRAINING, folder_name, verify_checkpoint
from trainctl.checkpoint.store import LocalStore
from trainctl.cli.main import main
from trainctl.config import composer as compose
from trainctl.config import stored_config
from trainctl.config.overrides import to_hydra
from trainctl.errors import TrainctlError
from trainctl.registry import plugins
from trainctl.training.hooks import metrics_log

OUTPUTS = Path("outputs")
RUN = OUTPUTS / "run"

_SMALL = (
    "dataset=synthetic", "dataset.samples=256", "dataset.test_samples=32", "dataset.shape=[8]",
    "dataset.outputs=3", "model.hidden=[8]", "model.dropout=0.2", "scheduler=cosine", "loader.workers=0",
    "train.batch_size=16", "device=cpu", "threads=1", "display.mode=none", "checkpoint.every_minutes=null",
)  # fmt: skip
# Four saves in the middle of epochs and one after the first, of 15 steps.
SHORT = (*_SMALL, "train.max_steps=18", "checkpoint.every_steps=4", "checkpoint.overlap=false")
LONG = (*_SMALL, "train.max_steps=120", "checkpoint.every_steps=5", "checkpoint.overlap=true")


Patch = Callable[[], None]
"""Changes the program, in a child."""


def nothing() -> None:
    """The program as it is."""


@dataclass
class _Composed:
    """Stands in for a composer that has composed."""

    composed: compose.Composed

    def compose(self, words: Sequence[str]) -> compose.Composed:
        return self.composed

    def run(self, composed: compose.Composed, directory: Path, work: Callable[[], Any]) -> Any:
        return work()


@dataclass
class Course:
    """One command, composed once, and what comes of it when nothing goes wrong.

    Attributes:
        words: the command.
        names: the file operations of a run that was left in peace, by their numbers.
        ops: those that did not fail, with what a replay needs, and marks among them.
        saved: for each completed save, the number of operations before its end, and its step.
        seconds: how long it takes.
    """

    words: Sequence[str]
    ops: list[Op] = field(default_factory=list)
    saved: list[tuple[int, int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    checkpoints: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        composed = compose.Composer(None, None).compose([to_hydra(word) for word in self.words])
        self._composer, self._stored = _Composed(composed), stored_config.stored_files(composed)

    def start(self, patch: Patch = nothing) -> int:
        """The command itself; only Hydra's part, three quarters of its time, was done before the fork."""
        patch()
        compose.Composer = lambda *words: self._composer  # type: ignore[assignment, misc]
        compose.run_directory = lambda composed: str(RUN)
        stored_config.stored_files = lambda composed: dict(self._stored)
        return main(self.words)

    def saved_before(self, number: int) -> int | None:
        """The step of the newest save that was complete before operation ``number``."""
        return max((step for at, step in self.saved if at <= number), default=None)

    # ---------------------------------------------------------------- left in peace

    def measure(self, folder: Path, patch: Patch = nothing) -> str | None:
        """Run it in peace and keep what it did and left; returns what went wrong."""
        folder.mkdir(exist_ok=True)
        (folder / OUTPUTS).mkdir()
        ended = spawn(lambda: self._recorded(patch), folder)
        if ended.code:
            return str(ended)
        record = json.loads((folder / "ops.json").read_text())
        self.ops, self.names, self.foreign = record["ops"], record["names"], record["foreign"]
        self.saved = [(op[1], op[2]) for op in self.ops if op[0] == "mark"]
        run = folder / RUN
        self.remember(run)
        return None

    def remember(self, run: Path) -> None:
        """Keep what a finished run has left."""
        last = self._last(run)
        self.files = {name: (last / name).read_bytes() for name in (MODEL, TRAINING, STATE)}
        self.files |= {
            name: (run / name).read_bytes() for name in ("run.json", "metrics.jsonl", "config.yaml")
        }
        self.checkpoints = _names(run)

    def _last(self, run: Path) -> Path:
        return run / "checkpoints" / folder_name(self.saved[-1][1])

    def _recorded(self, patch: Patch) -> int:
        patch()
        disk = Disk(Path.cwd() / OUTPUTS)
        mark_saves(disk)
        disk.install()
        disk.watch_openers()
        code = self.start()
        disk.record(Path.cwd() / "ops.json")
        note_modules()
        return code

    # ---------------------------------------------------------------- compared

    def difference(self, run: Path, *, tidy: bool = True) -> str | None:
        """In what a finished run differs from the one left in peace; None when in nothing.

        Not ``tidy``, old checkpoints may be left.
        """
        last = self._last(run)
        for name in (MODEL, TRAINING):
            if not (last / name).is_file() or (last / name).read_bytes() != self.files[name]:
                return f"{name} of the last checkpoint differs"
        for name, reading in ((STATE, _state), ("metrics.jsonl", _metrics), ("run.json", _record)):
            path = last / name if name == STATE else run / name
            got, expected = reading(path.read_bytes()), reading(self.files[name])
            if got != expected:
                return f"{name} differs: {_first_difference(got, expected)}"
        if not self.checkpoints <= _names(run) or (tidy and _names(run) != self.checkpoints):
            return f"it has the checkpoints {sorted(_names(run))}, not {sorted(self.checkpoints)}"
        hidden = [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
        return f"left behind: {hidden}" if tidy and hidden else None


def _first_difference(got: Any, expected: Any) -> str:
    if isinstance(got, dict) and isinstance(expected, dict):
        keys = [key for key in {**got, **expected} if got.get(key) != expected.get(key)]
        return f"{keys[0]}.{_first_difference(got.get(keys[0]), expected.get(keys[0]))}"
    if isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        pairs = enumerate(zip(got, expected, strict=True))
        number = next(number for number, (mine, other) in pairs if mine != other)
        return f"{number}.{_first_difference(got[number], expected[number])}"
    return f"{got} instead of {expected}"


def _state(content: bytes) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(content)
    # Times, and the length of a file that has times in it.
    state.pop("epoch_seconds")
    state["parts"].pop("metrics_log")
    return state


def _metrics(content: bytes) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in content.decode().splitlines()]
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines]


def _record(content: bytes) -> dict[str, Any]:
    record = json.loads(content)
    return {
        key: record[key] for key in ("status", "exit_code", "reason", "best", "last", "test", "parameters")
    }


def _names(run: Path) -> set[str]:
    return {path.name for path in (run / "checkpoints").iterdir() if not path.name.startswith(".")}


def note_modules() -> None:
    """Write down what this process has imported."""
    Path("modules.json").write_text(json.dumps(sorted(sys.modules)))


def warm(folder: Path) -> None:
    """Import what a child in ``folder`` has noted: each later one has it then."""
    for name in json.loads((folder / "modules.json").read_text()):
        if name not in sys.modules and name.startswith(("numpy.", "torch.", "trainctl.")):
            importlib.import_module(name)


def mark_saves(disk: Disk) -> None:
    """Note the end of each save among the operations."""
    commit = LocalStore.commit

    def marked(store: LocalStore, name: str, manifest: bytes) -> None:
        commit(store, name, manifest)
        disk.mark(int(name.removeprefix("step-")))

    LocalStore.commit = marked  # type: ignore[method-assign]


# ------------------------------------------------------------------- broken, and carried on


def half_made(folder: Path, course: Course) -> str | None:
    """What lies under a final name and is not whole; None where there is nothing of the kind."""
    run = folder / RUN
    for path in sorted((run / "checkpoints").glob("*")) if run.is_dir() else ():
        if path.name.startswith("step-"):
            try:
                verify_checkpoint(path)
            except TrainctlError as error:
                return f"{path.name} is not whole: {error}"
    names = [path.name for path in run.iterdir()] if run.is_dir() else []
    for name in ("run.json", "config.yaml"):
        path = run / name
        # The one file that is made in its place, because it is what takes the directory.
        if names != ["run.json"] and path.exists() and (wrong := _unusable(path, course)):
            return f"{name} is not whole: {wrong}"
    latest = folder / OUTPUTS / "latest"
    if latest.is_symlink() and not latest.is_dir():
        return "outputs/latest leads nowhere"
    return None


def _unusable(path: Path, course: Course) -> str:
    content = path.read_bytes()
    if path.name == "config.yaml":
        return "" if content == course.files["config.yaml"] else "it differs"
    try:
        return "" if json.loads(content)["status"] else "no status"
    except (ValueError, KeyError, TypeError) as error:
        return str(error)


def resume(folder: Path, patch: Patch = nothing) -> Ended:
    """``trainctl resume RUN`` in a child."""

    def work() -> int:
        patch()
        return main(["resume", str(RUN)])

    return spawn(work, folder)


def carry_on(
    course: Course, folder: Path, at_least: int | None, patch: Patch = nothing, *, tidy: bool = True
) -> str | None:
    """Resume, or start again where one is told to, and compare; returns what went wrong.

    ``at_least`` is the step of the last save that was complete: no less may be left of the run. ``tidy`` is
    whether nothing more than that may be left either.
    """
    ended = resume(folder, patch)
    if ended.code == 0:
        if at_least is not None and (wrong := _lost_steps(folder / RUN, at_least)):
            return wrong
        return course.difference(folder / RUN, tidy=tidy)
    if at_least is not None:
        return f"step {at_least} had been saved, but resume {ended}"
    if not _told_to_start(ended):
        return f"resume {ended}"
    again = spawn(partial(course.start, patch), folder)
    if again.code:
        return f"starting again {again}"
    return course.difference((folder / OUTPUTS / "latest").resolve())


def _lost_steps(run: Path, at_least: int) -> str | None:
    resumed = json.loads((run / "run.json").read_text()).get("resumed")
    if resumed is not None and resumed["step"] < at_least:
        return f"resumed from step {resumed['step']}, though {at_least} had been saved"
    return None


def _told_to_start(ended: Ended) -> bool:
    return (ended.code == 4 and "start it again" in ended.text) or (
        ended.code == 2 and ("no such directory" in ended.text or "there is no run here" in ended.text)
    )


def own_environment(folder: Path) -> None:
    """None of the caller's settings and installed plugins; everything below ``folder``."""
    os.chdir(folder)
    plugins.entry_points = lambda group: ()  # type: ignore[assignment]
    # The trials number the file operations: none may depend on how fast the machine is.
    metrics_log._SECONDS = math.inf
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    for name in ("TRAINCTL_DEBUG", "HYDRA_FULL_ERROR", "WORLD_SIZE"):
        os.environ.pop(name, None)
