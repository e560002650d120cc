"""Prove that resuming is exact: verify RUN [--steps N], its steps taken again and compared."""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.errors import CheckpointError, ConfigError, DirectoryTakenError, StorageError, nearest
from trainctl.paths import short_path
from trainctl.registry import plugins
from trainctl.runs import directory as rundir
from trainctl.training.recording import device_name
from trainctl.training.startup import collector_paused, importing

if TYPE_CHECKING:
    from trainctl.analysis.verify import Checked, Gap, Stretch
    from trainctl.config.stored import Era

_OPTIONS = ("--steps", "--trust-plugins")
_STEPS = 200


@dataclass(frozen=True)
class _Asked:
    run: str
    steps: int
    trust_plugins: bool


def run(words: list[str]) -> int:
    """Take the steps of the run that the first word names again, and compare.

    From the beginning and from every checkpoint on, to the next checkpoint or for ``--steps`` (200), the run
    is trained once more, and everything recorded of it is compared bit for bit: each loss and learning rate,
    each evaluation, and all that the next checkpoint holds. Nothing in the run directory is written.

    Returns the exit code: 0 when everything is identical, 1 when something differs; it is named. Raises
    ConfigError for what cannot be verified, CheckpointError without a usable checkpoint, UnsafeInputError for
    changed plugins, DirectoryTakenError while another process trains in the directory.
    """
    asked = _parse(words)
    return verify(rundir.find(asked.run), asked.steps, trust_plugins=asked.trust_plugins)


def _parse(words: Sequence[str]) -> _Asked:
    named, steps, trust = [], _STEPS, False
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            named.append(word)
        elif name == "--steps":
            value = value if equals else left.pop(0) if left else ""
            if not value.isdecimal() or int(value) == 0:
                raise ConfigError(f"--steps {value}: must be a whole number, at least 1", "--steps 200")
            steps = int(value)
        elif word == "--trust-plugins":
            trust = True
        else:
            close = nearest(name, _OPTIONS)
            remedy = f"did you mean {close}? " if close else ""
            raise ConfigError(
                f"{word}: verify has no such option", f"{remedy}there are: {', '.join(_OPTIONS)}"
            )
    if len(named) != 1 or "=" in named[0]:
        what = f"verify takes one RUN, not {' '.join(named)}" if named else "verify needs a RUN"
        raise ConfigError(what, "trainctl verify RUN: a directory, last, or a name")
    return _Asked(named[0], steps, trust)


def verify(directory: Path, steps: int, *, trust_plugins: bool) -> int:
    """Verify the run in ``directory``, at most ``steps`` a stretch; returns the exit code."""
    with collector_paused():
        from trainctl.config.stored import read_eras

        record = rundir.read_record(directory)
        _refuse_running(directory)
        if not (directory / "config.yaml").is_file():
            raise CheckpointError(
                f"{directory} has no checkpoint: it was stopped before the first one was saved",
                "nothing can be verified without one",
            )
        stored = (record.get("environment") or {}).get("plugins") or []

        def trusted(named: list[str]) -> None:
            if not trust_plugins:
                plugins.refuse_changed(named, stored)

        eras = read_eras(directory, trusted)
        for era in eras[:-1]:
            trusted(era.plugins)
    with importing():
        import torch

        from trainctl.analysis import verify as verifying

    plugins.load(eras[-1].plugins)
    kept, broken = verifying.find_checkpoints(directory / "checkpoints")
    recorded = verifying.read_metrics(directory / "metrics.jsonl")
    beginning = verifying.why_no_beginning(eras[0].config.init_from)
    parts = verifying.plan(kept, recorded, verifying.courses(eras), steps, beginning)
    if not any(isinstance(part, verifying.Stretch) for part in parts):
        reasons = [_line(part) for part in parts if isinstance(part, verifying.Gap)]
        raise CheckpointError(
            f"{directory}: no checkpoint has recorded steps after it{''.join(f'; {why}' for why in reasons)}",
            "checkpoint.keep_last=N keeps more of them",
        )

    print(f"run {short_path(directory)}: {recorded.last} steps, {_count(len(kept), 'checkpoint')}")
    other = _other_environment(eras[-1], record)
    for notice in [*(f"damaged, not used: {reason}" for reason in broken), *other, *_changes(eras)]:
        print(notice)
    threads = torch.get_num_threads()
    checked = []
    for part in parts:
        # Building is threaded, too, and began with torch's own number of threads.
        torch.set_num_threads(threads)
        if isinstance(part, verifying.Stretch):
            result = verifying.take_again(part, record, recorded)
            checked.append(result)
            print(_result(result, _same(record)), flush=True)
        else:
            print(_line(part), flush=True)
    return _close(checked, max(recorded.last, kept[-1].step), bool(other), _same(record))


def _refuse_running(directory: Path) -> None:
    """Raise DirectoryTakenError while a process trains in ``directory``. The lock is not written."""
    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{directory / '.lock'} cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DirectoryTakenError(
            f"{directory}: another process is training in it", "wait for it, or stop it first"
        ) from None
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------ what is said


def _other_environment(era: Era, record: Mapping[str, Any]) -> list[str]:
    """Versions, device and threads that are not those of the run."""
    import torch

    from trainctl.analysis.verify import recorded_config
    from trainctl.training.runtime import choose_device

    then, config = record.get("environment") or {}, recorded_config(era, None, record)
    now = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(choose_device(config.device)),
        "threads": config.threads,
    }
    differing = [
        f"{key} {then.get(key, 'not recorded')} → {now[key]}" for key in now if then.get(key) != now[key]
    ]
    if not differing:
        return []
    return [
        f"not as it was trained: {', '.join(differing)}; exact only on the same machine, versions, threads"
    ]


def _changes(eras: Sequence[Era]) -> list[str]:
    return [
        f"settings changed at step {before.until}: {', '.join(map(str, after.changes(before)))}"
        for before, after in pairwise(eras)
    ]


def _same(record: Mapping[str, Any]) -> tuple[str, str]:
    """What a stretch without a difference is, and what that says of its numbers."""
    from trainctl.analysis.verify import tolerance_of

    tolerance = tolerance_of(record)
    if not tolerance:
        return "identical", "to the last bit"
    return "the same", f"to {tolerance:.0%} (engine {record['engine']}, taken again one by one)"


def _result(checked: Checked, same: tuple[str, str]) -> str:
    stretch = checked.stretch
    what = _count(checked.steps, "step")
    if checked.evaluations:
        what += f", {_count(checked.evaluations, 'evaluation')}"
    said = f"{same[0]} ({what})" if checked.difference is None else f"differs: {checked.difference}"
    return f"{_span(stretch)}: {said}"


def _line(gap: Gap) -> str:
    return f"{_span(gap)}: not verified: {gap.reason}"


def _span(part: Stretch | Gap) -> str:
    return f"step {part.start} → {part.end}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _close(checked: Sequence[Checked], last: int, elsewhere: bool, same: tuple[str, str]) -> int:
    """Print the closing sentence; returns the exit code."""
    differing = [each.difference for each in checked if each.difference is not None]
    if differing:
        print(f"differs, first in: {differing[0]}")
        if elsewhere:
            print("the same is promised on the same machine, versions and threads only")
        else:
            print("what was stored was changed, or the data, code or machine is another one")
        return 1
    again = set()
    for each in checked:
        again |= set(range(each.stretch.start, each.stretch.end))
    print(f"{same[0]}: {len(again)} of {_count(last, 'step')} taken again, {same[1]}")
    return 0
