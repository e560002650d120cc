"""Several processes and one run: two that resume it, readers beside the one that trains, a kill between a
checkpoint and the record that names it."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.reliability.children import Ended, Trial, count, none_missed, spawn
from tests.reliability.disk import BEFORE, Disk, killing
from tests.reliability.hostile import INPUT, SWEEP
from tests.reliability.runs import LONG, OUTPUTS, RUN, Course, Patch, mark_saves, nothing
from tests.reliability.sweeps import workers_from_this_process
from trainctl.checkpoint import retention
from trainctl.cli.main import main
from trainctl.runs import directory
from trainctl.training.hooks import checkpointer

_RESUME = ["resume", str(RUN)]
_LONGER = [*_RESUME, "train.max_steps=30", "--allow-change"]
_EVAL = ["eval", str(RUN)]
_NEW = [
    "init_from=outputs/run", "train.max_steps=1", "display.mode=none", "dataset=synthetic", "threads=1",
    "dataset.shape=[8]", "dataset.outputs=3", "model.hidden=[8]", "hydra.run.dir=new",
]  # fmt: skip
_READERS: dict[str, list[str]] = {
    "eval": _EVAL,
    "eval of the last": [*_EVAL, "--checkpoint", "last"],
    "export": ["export", str(RUN), "--format", "safetensors", "--output", "m.safetensors", "--force"],
    "predict": ["predict", str(RUN), "--input", INPUT, "--output", "p.csv"],
    "compare": ["compare", "outputs"],
}
_TAKEN = 7
# Several verbs, one after the other, on a machine that may be busy.
_SECONDS = 120.0


def at_once(works: Sequence[Callable[[], int]], folder: Path) -> list[Ended]:
    """Do all of this at the same time, each in a child; how each ended."""
    reading, writing = os.pipe()
    children = []
    for number, work in enumerate(works):
        place = folder / f".of-{number}"
        place.mkdir()
        child = os.fork()
        if child == 0:
            try:
                os.close(writing)
                os.read(reading, 1)  # until all are there
                ended = spawn(partial(_in_folder, work, folder), place, timeout=_SECONDS)
                (place / "ended").write_text(json.dumps([ended.code, ended.timed_out, ended.text]))
            finally:
                os._exit(0)
        children.append((child, place))
    os.close(reading)
    os.close(writing)
    found = []
    for child, place in children:
        os.waitpid(child, 0)
        code, stuck, text = json.loads((place / "ended").read_text())
        count(code)
        found.append(Ended(code, stuck, 0.0, text))
        shutil.rmtree(place)
    return found


def _in_folder(work: Callable[[], int], folder: Path) -> int:
    os.chdir(folder)
    return work()


# ------------------------------------------------------------------- two resumes


def two_resumes(course: Course, made: Path, root: Path, times: int, patch: Patch = nothing) -> list[Trial]:
    """Two or three resumes of a run that was interrupted, or of a sweep, at the same moment: one does it."""
    broken = _interrupted(course, root)
    trials = [
        Trial(f"held before its lock, {title}", partial(_held, course, broken, other, patch))
        for title, other in (("the same", _RESUME), ("another length", _LONGER))
    ]
    trials += [
        Trial(f"{2 + number % 2} resumes, {number}", partial(_together, course, broken, number, patch))
        for number in range(times)
    ]
    trials += [
        Trial(f"resumed while it trains, {number}", partial(_while_it_trains, course, number, patch))
        for number in range(times // 2)
    ]
    trials += [
        Trial(f"two resumes of a sweep, {number}", partial(_sweep_twice, made, number, patch))
        for number in range(max(1, times // 4))
    ]
    return trials


def _interrupted(course: Course, root: Path) -> Path:
    """A folder with a run that was killed after its third save."""
    (root / OUTPUTS).mkdir(parents=True)

    def work() -> int:
        Disk(root / OUTPUTS, killing(course.saved[2][0], BEFORE)).install()
        return course.start()

    spawn(work, root)
    return root


def _one_winner(ended: Sequence[Ended]) -> str | None:
    """One did it; the others were told that the run is taken, or, having come late, that it is finished."""
    did = [each for each in ended if each.code == 0 and "nothing to resume" not in each.text]
    late = [each for each in ended if each.code == 0 and "nothing to resume" in each.text]
    taken = [each for each in ended if each.code == _TAKEN and "another process" in each.text]
    if len(did) == 1 and len(did) + len(late) + len(taken) == len(ended):
        return None
    return f"{len(did)} did it: " + "; ".join(map(str, ended))


def _together(course: Course, broken: Path, seed: int, patch: Patch, folder: Path) -> str | None:
    shutil.copytree(broken / OUTPUTS, folder / OUTPUTS, symlinks=True)
    draw = random.Random(seed)

    def work(after: float) -> int:
        patch()
        time.sleep(after)
        return main(_RESUME)

    offsets = [0.0, *(draw.uniform(0, 0.15) for _ in range(1 + seed % 2))]
    ended = at_once([partial(work, after) for after in offsets], folder)
    return _one_winner(ended) or course.difference(folder / RUN)


def _held(course: Course, broken: Path, other: list[str], patch: Patch, folder: Path) -> str | None:
    """The first is held when it has read its checkpoint, until the other has ended."""
    shutil.copytree(broken / OUTPUTS, folder / OUTPUTS, symlinks=True)

    def first() -> int:
        patch()
        inner = retention.newest_valid

        def held(*words: Any) -> Any:
            found = inner(*words)
            Path("held").touch()
            _wait(Path("go"))
            return found

        retention.newest_valid = held  # type: ignore[assignment]
        return main(_RESUME)

    def second() -> int:
        patch()
        _wait(Path("held"))
        try:
            return main(other)
        finally:
            Path("go").touch()

    ended = at_once([first, second], folder)
    if [each.code for each in ended] != [0, _TAKEN]:
        return "both went on: " + "; ".join(map(str, ended))
    return course.difference(folder / RUN)


def _wait(path: Path) -> None:
    until = time.monotonic() + 40
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.002)


def _while_it_trains(course: Course, seed: int, patch: Patch, folder: Path) -> str | None:
    (folder / OUTPUTS).mkdir()
    draw = random.Random(seed)

    def another() -> int:
        patch()
        _wait(folder / RUN / "checkpoints")
        time.sleep(draw.uniform(0, 0.05))
        return main(_RESUME)

    trained, resumed = at_once([partial(course.start, patch), another], folder)
    if trained.code or resumed.code not in (0, 4, _TAKEN):
        return f"{trained}; {resumed}"
    if resumed.code == 0 and "nothing to resume" not in resumed.text:
        return f"both trained: {resumed}"
    return course.difference(folder / RUN)


def _sweep_twice(made: Path, seed: int, patch: Patch, folder: Path) -> str | None:
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    for number in (0, 1):
        shutil.rmtree(folder / SWEEP / str(number))
        (folder / SWEEP / "ledger" / f"{number}.json").write_text(json.dumps({"state": "waiting"}))
    draw = random.Random(seed)

    def work(after: float) -> int:
        patch()
        workers_from_this_process()
        time.sleep(after)
        return main(["resume", str(SWEEP)])

    ended = at_once([partial(work, 0.0), partial(work, draw.uniform(0, 0.1))], folder)
    rows = [json.loads(path.read_text())["state"] for path in (folder / SWEEP / "ledger").iterdir()]
    left = sorted(path.name for path in (folder / SWEEP).iterdir() if "attempt" in path.name)
    wrong = _one_winner(ended)
    if wrong is None and (set(rows) != {"done"} or left):
        wrong = f"rows {rows}, set aside {left}"
    return wrong


# ------------------------------------------------------------------- readers beside a writer


def beside_a_writer(made: Path, times: int, patch: Patch = nothing) -> list[Trial]:
    """Each verb that reads, again and again while a run trains that keeps few checkpoints and saves often."""
    writer = Course((*LONG, "checkpoint.every_steps=2", "checkpoint.keep_last=1", "train.max_steps=240"))
    return [
        Trial(f"{name} beside a writer, {number}", partial(_beside, writer, words, number, made, patch))
        for number in range(times)
        for name, words in _READERS.items()
    ]


def _beside(
    writer: Course, words: list[str], seed: int, made: Path, patch: Patch, folder: Path
) -> str | None:
    (folder / OUTPUTS).mkdir()
    shutil.copy(made / INPUT, folder / INPUT)

    def train() -> int:
        try:
            return writer.start()
        finally:
            Path("trained").touch()

    def read() -> int:
        patch()
        _slow_reads(random.Random(seed))
        until = time.monotonic() + 40
        while not list((folder / RUN).glob("checkpoints/step-*")) and time.monotonic() < until:
            time.sleep(0.001)
        times = 0
        while not Path("trained").exists() or times == 0:
            if (code := main(words)) != 0:
                print(f"reading {times} ended with {code}")
                return code
            times += 1
        return 0

    trained, found = at_once([train, read], folder)
    return str(trained) if trained.code else f"reading {found}" if found.code else None


def _slow_reads(draw: random.Random) -> None:
    """Between choosing a checkpoint and reading it, time passes."""
    inner = retention.read_checkpoint

    def slow(path: Path, *, training: bool = True) -> Any:
        time.sleep(draw.choice((0.0, 0.005, 0.02)))
        return inner(path, training=training)

    retention.read_checkpoint = slow  # type: ignore[assignment]


# ------------------------------------------------------------------- killed between best and its pointer


def stale_best(course: Course, peace: Path, root: Path, every: int, patch: Patch = nothing) -> list[Trial]:
    """A finished run that is carried on and killed at each ``every``-th operation: what reads it finds its
    best checkpoint at every moment, and carrying it on again comes to the same end."""
    made = root / "finished"
    shutil.copytree(peace / OUTPUTS, made / OUTPUTS, symlinks=True)
    whole = root / "whole"
    shutil.copytree(made / OUTPUTS, whole / OUTPUTS, symlinks=True)
    names = root / "names"

    def counted() -> int:
        disk = Disk(whole / OUTPUTS)
        mark_saves(disk)
        disk.install()
        code = main(_LONGER)
        names.write_text(json.dumps([disk.names, [(op[1], op[2]) for op in disk.ops if op[0] == "mark"]]))
        return code

    ended = spawn(counted, whole, timeout=_SECONDS)
    if ended.code:
        return [Trial("a longer run in peace", lambda folder: str(ended))]
    operations, saved = json.loads(names.read_text())
    longer = Course(course.words)
    longer.saved = [tuple(each) for each in saved]
    longer.remember(whole / RUN)
    return [
        Trial(f"killed before operation {number}, {name}", partial(_stale, longer, made, number, patch))
        for number, name in enumerate(operations)
        if number % every == 0
    ]


def _stale(longer: Course, made: Path, number: int, patch: Patch, folder: Path) -> str | None:
    shutil.copytree(made / OUTPUTS, folder / OUTPUTS, symlinks=True)

    def work() -> int:
        patch()
        Disk(folder / OUTPUTS, killing(number, BEFORE)).install()
        return main(_LONGER)

    ended = spawn(work, folder, timeout=_SECONDS)
    if ended.code != -signal.SIGKILL or ended.timed_out:
        return f"was not killed: {ended}"

    def read() -> int:
        patch()
        for words in (_EVAL, [*_EVAL, "--checkpoint", "last"], ["compare", str(RUN)], _NEW):
            if code := main(words):
                print(f"{words[0]} ended with {code}")
                return code
        return 0

    ended = spawn(read, folder, timeout=_SECONDS)
    if ended.code:
        return str(ended)

    def carry_on() -> int:
        patch()
        return main(_LONGER)

    ended = spawn(carry_on, folder, timeout=_SECONDS)
    return str(ended) if ended.code else longer.difference(folder / RUN)


# ------------------------------------------------------------------- the trials themselves, tried


def _no_lock() -> None:
    """The kernel's lock is had by everyone."""
    names = {name: getattr(fcntl, name) for name in ("LOCK_EX", "LOCK_NB", "LOCK_SH", "LOCK_UN")}
    directory.fcntl = SimpleNamespace(flock=lambda descriptor, flags: None, **names)  # type: ignore[attr-defined]


def _vanishes() -> None:
    """What is chosen may be gone, and nobody chooses again."""
    retention.os = SimpleNamespace(path=SimpleNamespace(lexists=lambda path: True))  # type: ignore[attr-defined]


def _keeps_the_newest_only() -> None:
    """The best checkpoint goes when there is a newer one."""
    inner = checkpointer.prune_checkpoints
    checkpointer.prune_checkpoints = lambda folder, keep, keep_last: inner(folder, set(), 1)


def bites(course: Course, made: Path, root: Path) -> list[Trial]:
    """The same without locks, with readers that choose once, and with a best checkpoint that goes: some trial
    of each must be missed."""
    root.mkdir()
    return [
        Trial(
            "locks that everyone has",
            partial(none_missed, two_resumes(course, made, root / "resumes", 0, _no_lock)),
        ),
        Trial("readers that choose once", partial(none_missed, beside_a_writer(made, 3, _vanishes))),
        Trial(
            "a best checkpoint that goes",
            partial(
                none_missed,
                stale_best(course, root.parent / "peace", root / "best", 4, _keeps_the_newest_only),
            ),
        ),
    ]
