"""All kinds of trials, one after the other, and the table."""

from __future__ import annotations

import errno
import functools
import gc
import importlib
import os
import pkgutil
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trainctl
from tests.reliability import (
    bites,
    bucket,
    contention,
    crashes,
    damage,
    hostile,
    malice,
    power,
    ranks,
    streams,
    words,
)
from tests.reliability.children import Row, Trial, try_all
from tests.reliability.runs import LONG, RUN, SHORT, Course, own_environment, warm

_RANDOM_KILLS = 120
_LINES = 180
_RESUMES = 24
_READINGS = 6
_READERS_GONE = 3
_RANKS_KILLED = 60
_SHOWN = 5
# Large, and used by no trial: each fork would copy their memory's tables. The server ignores what ends it.
_LEFT_OUT = ("__main__", "lightning", "parquet", "torchvision", "sweep.server")


@dataclass
class _Bench:
    """What all trials use: a folder, and a run left in peace in it.

    Attributes:
        whole: the last checkpoint of that run.
    """

    root: Path
    course: Course
    whole: Path

    @functools.cached_property
    def made(self) -> Path:
        """A folder with a finished run, one with a bad step, and a sweep."""
        return hostile.prepare(self.course, self.root / "made")


@dataclass(frozen=True)
class _Kind:
    """A row of the table. ``quick`` is how many of its trials `make test` has time for."""

    name: str
    make: Callable[[_Bench], list[Trial]]
    quick: int = 0


def _peaceful(bench: _Bench) -> list[Trial]:
    def again(folder: Path) -> str | None:
        return Course(SHORT).measure(folder / "again") or bench.course.difference(folder / "again" / RUN)

    def writers(folder: Path) -> str | None:
        return "; ".join(bench.course.foreign) or None

    return [Trial("twice the same", again), Trial("only trainctl.runs.files writes", writers)]


def _resumes(bench: _Bench) -> list[Trial]:
    return [
        *crashes.in_the_resume(bench.course, bench.root / "resume"),
        *crashes.in_the_resume(bench.course, bench.root / "change", "optim.lr=0.002"),
    ]


def _at_random(bench: _Bench) -> list[Trial]:
    long = Course(LONG)
    if wrong := long.measure(bench.root / "long"):
        return [Trial("a long run left in peace", lambda folder: wrong)]
    crashes.timed(long, bench.root / "timed")
    return crashes.at_any_time(long, _RANDOM_KILLS, seed=0)


def _full(bench: _Bench) -> list[Trial]:
    return [
        *crashes.with_errors(bench.course, errno.ENOSPC, forever=True),
        crashes.with_a_full_log(bench.course),
    ]


def _malicious(bench: _Bench) -> list[Trial]:
    normal = malice.prepare(bench.course, bench.root / "malice")
    return malice.planted(bench.root / "malice", normal)


def _malice_bites(bench: _Bench) -> list[Trial]:
    normal = malice.prepare(bench.course, bench.root / "malice-bites")
    return malice.bites(bench.root / "malice-bites", normal)


def _broken_streams(bench: _Bench) -> list[Trial]:
    return streams.broken(bench.made, bench.course, _new(bench.root / "streams"), _READERS_GONE)


def _resumes_at_once(bench: _Bench) -> list[Trial]:
    return contention.two_resumes(bench.course, bench.made, bench.root / "resumes", _RESUMES)


def _killed_with_a_best(bench: _Bench) -> list[Trial]:
    return contention.stale_best(bench.course, bench.root / "peace", bench.root / "best", 2)


def _stream_bites(bench: _Bench) -> list[Trial]:
    return streams.bites(bench.made, bench.course, _new(bench.root / "stream-bites"))


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _without(safeguard: str, bench: _Bench) -> list[Trial]:
    return bites.without(safeguard, bench.whole)


_KINDS = (
    _Kind("left in peace", _peaceful, 2),
    _Kind("killed at each operation", lambda bench: crashes.at_every_operation(bench.course), 20),
    _Kind("killed at each operation of a resume", _resumes, 4),
    _Kind("killed at random times", _at_random, 4),
    _Kind("ENOSPC at each operation", _full, 5),
    _Kind(
        "EIO at each operation",
        lambda bench: crashes.with_errors(bench.course, errno.EIO, forever=False),
        5,
    ),
    _Kind("power lost after each operation", lambda bench: power.after_every_operation(bench.course), 7),
    _Kind("a bit of each byte flipped", lambda bench: damage.every_byte(bench.whole), 1),
    _Kind("cut at each length", lambda bench: damage.every_length(bench.whole), 1),
    _Kind("malicious files", _malicious),
    _Kind("what the verbs do, audited", lambda bench: hostile.verbs(bench.made), 5),
    _Kind("resumes at the same moment", _resumes_at_once, 3),
    _Kind("readers beside a writer", lambda bench: contention.beside_a_writer(bench.made, _READINGS), 2),
    _Kind("killed between best and its pointer", _killed_with_a_best, 3),
    _Kind("ranks killed or stopped", lambda bench: ranks.killed(bench.root / "ranks", _RANKS_KILLED)),
    _Kind(
        "ranks killed or stopped, three devices",
        lambda bench: ranks.killed(bench.root / "three", _RANKS_KILLED, *ranks.THREE),
    ),
    _Kind(
        "ranks of a cut model killed or stopped",
        lambda bench: ranks.killed(bench.root / "cut", _RANKS_KILLED, *ranks.CUT),
    ),
    _Kind(
        "ranks killed at each operation of a save",
        lambda bench: ranks.at_every_operation_of_a_save(bench.root / "saves"),
    ),
    _Kind("a bucket that fails", lambda bench: bucket.trials(bench.course, bench.root)),
    _Kind("streams closed, full, left alone", _broken_streams, 6),
    _Kind("command lines", lambda bench: words.typed(bench.root / "peace" / RUN, _LINES, seed=0)),
    *(_Kind(f"bites without {safeguard}", partial(_without, safeguard)) for safeguard in bites.SAFEGUARDS),
    _Kind("bites: malicious files", _malice_bites),
    _Kind("bites: command lines", lambda bench: words.bites(bench.root / "peace" / RUN)),
    _Kind("bites: the audit", lambda bench: hostile.bites(bench.made)),
    _Kind(
        "bites: several processes",
        lambda bench: contention.bites(bench.course, bench.made, bench.root / "bites"),
    ),
    _Kind("bites: a bucket", lambda bench: bucket.bites(bench.course)),
    _Kind("bites: streams", _stream_bites),
    _Kind("bites: ranks", lambda bench: ranks.bites(bench.root / "rank-bites")),
)


def run(named: Sequence[str], *, quick: bool) -> int:
    """Try everything, or the kinds whose names have one of the words; returns the exit code."""
    started = time.monotonic()
    kinds = [kind for kind in _KINDS if not named or any(word in kind.name for word in named)]
    if not kinds:
        print(f"there is no such kind; there are: {'; '.join(kind.name for kind in _KINDS)}")
        return 2
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="reliability-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        own_environment(root)
        rows = _try(root.resolve(), kinds, quick)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    missed = sum(len(row.missed) for row in rows)
    _show_codes(rows)
    print(_line("all", sum(row.trials for row in rows), missed, time.monotonic() - started))
    return 1 if missed else 0


def _try(root: Path, kinds: Sequence[_Kind], quick: bool) -> list[Row]:
    _import_everything()
    course = Course(SHORT)
    print(f"{'kind of trial':<42}{'tried':>8}{'missed':>8}{'seconds':>9}")
    if wrong := course.measure(root / "peace"):
        return [_show(Row("left in peace", 1, [wrong], 0.0))]
    warm(root / "peace")
    # What is there stays: a collection in a child would copy the memory it looks through.
    gc.collect()
    gc.freeze()
    last = sorted((root / "peace" / RUN / "checkpoints").glob("step-*"))[-1]
    bench = _Bench(root, course, last)
    rows = []
    for kind in kinds:
        if quick and not kind.quick:
            continue
        trials = kind.make(bench)
        if quick:
            step = -(-len(trials) // kind.quick)
            trials = trials[(step - 1) // 2 :: step]
        rows.append(_show(try_all(kind.name, trials, root)))
    return rows


def _import_everything() -> None:
    for module in pkgutil.walk_packages(trainctl.__path__, "trainctl."):
        if not module.name.endswith(_LEFT_OUT):
            importlib.import_module(module.name)


def _show(row: Row) -> Row:
    print(_line(row.kind, row.trials, len(row.missed), row.seconds), flush=True)
    for missed in row.missed[:_SHOWN]:
        print("    " + missed.replace("\n", "\n    ")[:2000])
    if len(row.missed) > _SHOWN:
        print(f"    and {len(row.missed) - _SHOWN} more")
    return row


def _show_codes(rows: Sequence[Row]) -> None:
    """The table of counts: of each kind, how many processes ended with each exit code."""
    codes = sorted({code for row in rows for code in row.codes})
    print(f"\n{'ended with':<42}" + "".join(f"{code:>8}" for code in codes))
    for row in rows:
        print(f"{row.kind:<42}" + "".join(f"{row.codes.get(code, 0) or '-':>8}" for code in codes))
    print(f"\n{'':<42}{'tried':>8}{'missed':>8}{'seconds':>9}")


def _line(kind: str, trials: int, missed: int, seconds: float) -> str:
    return f"{kind:<42}{trials:>8}{missed:>8}{seconds:>9.1f}"
