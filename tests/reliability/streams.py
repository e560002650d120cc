"""Standard output and error that are closed, full, or whose reader goes away: the work is done anyway."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.reliability.children import Ended, Trial, spawn
from tests.reliability.hostile import BAD, INPUT, SWEEP
from tests.reliability.runs import RUN, SHORT, Course, Patch, nothing
from tests.reliability.sweeps import workers_from_this_process
from trainctl.cli import main as cli

_FULL = Path("/dev/full")
_PLAIN, _RICH = "display.mode=plain", "display.mode=rich"
_OUT, _ERR = 1, 2


@dataclass(frozen=True)
class _Verb:
    """A command.

    Attributes:
        words: the command line.
        code: how it ends in peace.
        left: the files that it must leave as it does in peace; below a folder, all of them by their names.
        check: what else must be so, given the folder; returns what is wrong.
    """

    words: tuple[str, ...]
    code: int = 0
    left: tuple[str, ...] = ()
    check: Callable[[Path, Course], str | None] = lambda folder, course: None


def _trained(folder: Path, course: Course) -> str | None:
    return course.difference(folder / "new")


def _swept(place: Path, folder: Path, course: Course) -> str | None:
    rows = {
        path.stem: json.loads(path.read_text())["state"] for path in (folder / place).glob("ledger/*.json")
    }
    status = json.loads((folder / place / "sweep.json").read_text())["status"]
    return None if set(rows.values()) == {"done"} and status == "done" else f"sweep {status}, rows {rows}"


def _resumed(folder: Path, course: Course) -> str | None:
    record = json.loads((folder / RUN / "run.json").read_text())
    whole = (folder / RUN / "checkpoints" / "step-00000024" / "manifest.json").is_file()
    return (
        None if record["status"] == "done" and whole else f"the run is {record['status']}, {record['last']}"
    )


_NEW = (*SHORT, "hydra.run.dir=new")
# smoke itself tries every component, for minutes: its list stands for it.
VERBS: Mapping[str, _Verb] = {
    "train": _Verb((*_NEW, _PLAIN), check=_trained),
    "train, rich": _Verb((*_NEW, _RICH), check=_trained),
    "resume": _Verb(("resume", str(RUN), "train.max_steps=24", "--allow-change", _PLAIN), check=_resumed),
    "sweep": _Verb(
        ("-m", *SHORT, "seed=1,2", "sweep.jobs=1", "hydra.sweep.dir=new", _PLAIN),
        check=partial(_swept, Path("new")),
    ),
    "resume a sweep": _Verb(("resume", str(SWEEP)), check=partial(_swept, SWEEP)),
    "eval": _Verb(("eval", str(RUN))),
    "eval --json": _Verb(("eval", str(RUN), "--json")),
    "predict": _Verb(("predict", str(RUN), "--input", INPUT, "--output", "p.csv"), left=("p.csv",)),
    "export": _Verb(("export", str(RUN), "--format", "safetensors"), left=("run.safetensors",)),
    "verify": _Verb(("verify", str(RUN))),
    "replay": _Verb(("replay", str(BAD))),
    "compare": _Verb(("compare", str(SWEEP), "--csv", "runs.csv"), left=("runs.csv",)),
    "compare --json -": _Verb(("compare", str(SWEEP), "--json", "-")),
    "plan": _Verb(("plan", "-m", *SHORT, "seed=1,2")),
    "trace": _Verb(("trace", *SHORT)),
    "tune": _Verb(("tune", "lr", *SHORT)),
    "ls": _Verb(("ls",)),
    "init": _Verb(("init", "project"), left=("project",)),
    "smoke --list": _Verb(("smoke", "--list")),
    "help": _Verb(("--help",)),
    "--cfg job": _Verb((*SHORT, "--cfg", "job")),
    "a mistake": _Verb(("resume", "nowhere"), code=2),
}


# ------------------------------------------------------------------- what happens to the streams


def _closed(number: int) -> None:
    os.close(number)
    setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python starts then


def _opened(number: int, descriptor: int) -> None:
    """The stream leads to ``descriptor``, as one that Python has just opened."""
    os.dup2(descriptor, number)
    os.close(descriptor)
    stream = open(number, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    setattr(sys, ("stdin", "stdout", "stderr")[number], stream)


def _full(number: int) -> None:
    _opened(number, os.open(_FULL, os.O_WRONLY))


def _left_alone(size: int, number: int) -> None:
    """The reader goes after so many bytes; with none, before the command begins."""
    reading, writing = os.pipe()
    reader = os.fork()
    if reader == 0:
        with contextlib.suppress(BaseException):
            os.close(writing)
            while size > 0 and (got := os.read(reading, size)):
                size -= len(got)
        os._exit(0)
    os.close(reading)
    if size == 0:
        os.waitpid(reader, 0)
    _opened(number, writing)


def _modes(verb: str, draws: int) -> Iterator[tuple[str, Callable[[], None], bool]]:
    """Each with whether standard output is full, which exit code 5 says."""
    for name, out, err in (("closed", _closed, _closed), ("full", _full, _full)):
        full = name == "full"
        yield f"stdout {name}", partial(_both, out, None), full
        yield f"stderr {name}", partial(_both, None, err), False
        yield f"stdout and stderr {name}", partial(_both, out, err), full
    gone = partial(_left_alone, 0)
    yield "nobody reads stdout", partial(_both, gone, None), False
    yield "nobody reads stderr", partial(_both, None, gone), False
    yield "nobody reads", partial(_both, gone, gone), False
    yield "stdin, stdout and stderr closed", _all_closed, False
    draw = random.Random(verb)
    for _ in range(draws):
        size = round(10 ** draw.uniform(0, 3.5))
        yield f"the reader goes after {size} bytes", partial(_both, partial(_left_alone, size), None), False


def _both(out: Callable[[int], None] | None, err: Callable[[int], None] | None) -> None:
    for change, number in ((out, _OUT), (err, _ERR)):
        if change is not None:
            change(number)


def _all_closed() -> None:
    for number in (0, 1, 2):
        _closed(number)


# ------------------------------------------------------------------- tried


def broken(made: Path, course: Course, root: Path, draws: int) -> list[Trial]:
    """Each verb with each thing that may happen to its streams; ``made`` is that of ``hostile``."""
    shutil.copytree(made, root / "made", symlinks=True)
    sweep = root / "made" / SWEEP
    shutil.rmtree(sweep / "1")
    (sweep / "ledger" / "1.json").write_text(json.dumps({"state": "waiting"}))
    return [
        Trial(f"{name}, {mode}", partial(_tried, verb, change, course, root, full=full))
        for name, verb in VERBS.items()
        for mode, change, full in _modes(name, draws)
    ]


def _tried(
    verb: _Verb,
    change: Callable[[], None],
    course: Course,
    root: Path,
    folder: Path,
    *,
    full: bool,
    patch: Patch = nothing,
) -> str | None:
    peace = root / f"peace-{'-'.join(verb.words[:2]).replace('/', '_')}-{verb.words[-1].replace('/', '_')}"
    if wrong := _in_peace(verb, course, root / "made", peace):
        return f"in peace, {wrong}"
    shutil.copytree(root / "made", folder, symlinks=True, dirs_exist_ok=True)
    ended = _spoken(verb, change, patch, folder)
    prints = (peace / "printed").stat().st_size > 0
    code = 5 if full and verb.code == 0 and prints else verb.code
    if wrong := _amiss(verb, ended, code, course, folder):
        return wrong
    differing = [name for name in verb.left if _content(folder / name) != _content(peace / name)]
    return f"not what is left in peace: {differing}" if differing else None


def _in_peace(verb: _Verb, course: Course, made: Path, peace: Path) -> str | None:
    """Leave in ``peace`` what the command leaves there in peace; another trial may have done so."""
    if peace.exists():
        return None
    folder = peace.with_name(f"{peace.name}.{os.getpid()}")
    shutil.copytree(made, folder, symlinks=True)
    wrong = _amiss(verb, _spoken(verb, lambda: None, nothing, folder), verb.code, course, folder)
    if wrong is None:
        with contextlib.suppress(OSError):
            folder.rename(peace)
    shutil.rmtree(folder, ignore_errors=True)
    return wrong


def _spoken(verb: _Verb, change: Callable[[], None], patch: Patch, folder: Path) -> Ended:
    def work() -> int:
        patch()
        workers_from_this_process()
        _opened(_OUT, os.open("printed", os.O_WRONLY | os.O_CREAT, 0o600))
        change()
        code = cli.main(verb.words)
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except OSError:
                return 120  # as Python ends then
        return code

    return spawn(work, folder, timeout=90)


def _amiss(verb: _Verb, ended: Ended, code: int, course: Course, folder: Path) -> str | None:
    if ended.code != code or ended.timed_out:
        return f"expected {code}: {ended}"
    if "Traceback (" in ended.text or "error: internal" in ended.text:
        return f"said the wrong thing: {ended}"
    missing = [name for name in verb.left if not (folder / name).exists()]
    return f"not there: {missing}" if missing else verb.check(folder, course)


def _content(path: Path) -> Any:
    if path.is_dir():
        return sorted(str(each.relative_to(path)) for each in path.rglob("*"))
    # A table of runs has their paths, and what is left in peace was made in a folder of another name.
    return re.sub(rb"/[^\s,]*(?=/outputs/)", b"", path.read_bytes())


# ------------------------------------------------------------------- the trials themselves, tried


def _breakable() -> None:
    """The streams as Python makes them."""

    @contextlib.contextmanager
    def as_they_are() -> Iterator[Any]:
        yield SimpleNamespace(flush=sys.stdout.flush, error=None)

    cli.unbreakable_streams = as_they_are  # type: ignore[assignment]


FAULTS: Mapping[str, str] = {"full": "eval, stdout full", "gone": "train, nobody reads stdout"}


def bites(made: Path, course: Course, root: Path) -> list[Trial]:
    """The same with streams as Python makes them: one that is full or not read must be missed."""
    trials = {trial.name: trial.run for trial in broken(made, course, root, 0)}

    def noticed(name: str, folder: Path) -> str | None:
        return None if trials[name](folder, patch=_breakable) is not None else "nothing was missed"  # type: ignore[call-arg]

    return [Trial(fault, partial(noticed, name)) for fault, name in FAULTS.items()]
