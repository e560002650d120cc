"""Try the whole life of every config in a few steps: smoke [KEY=VALUE …] [--jobs N] [--junit FILE]."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.config.overrides import is_component_argument, split_override, to_hydra
from trainctl.errors import ConfigError, nearest, storage_error
from trainctl.smoke.settings import refuse
from trainctl.training.startup import collector_paused

if TYPE_CHECKING:
    from trainctl.smoke.cases import Case

_VALUED = ("--jobs", "--junit", "--config-dir")
_FLAGS = ("--own", "--list")
_OPTIONS = (*_VALUED, *_FLAGS)
_EXAMPLES = {"--jobs": "auto", "--junit": "smoke.xml", "--config-dir": "DIR"}
_MOST = 1024


@dataclass
class _Words:
    values: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)


def run(words: list[str]) -> int:
    """Compose, build, train, save, kill, resume, compare, evaluate, predict with and export every option.

    KEY=VALUE words that choose (``model=mlp,lenet``, ``experiment=a``) select what is tried; the others hold
    for every config. ``--own`` leaves out what comes with trainctl, ``--list`` only names what would be
    tried. Returns 1 where one failed. Runs go to a temporary folder; nothing is downloaded. Raises
    ConfigError for words that select nothing, and for those that smoke's own checks rest on.
    """
    typed = _parse(words)
    refuse(typed.overrides)
    listed = "--list" in typed.flags
    jobs = _jobs(typed.values.get("--jobs", "auto"))
    junit = _junit(typed.values.get("--junit"))
    config_dir = typed.values.get("--config-dir")
    with collector_paused():
        from trainctl.sweep.worker_pool import start_server

        if not listed:
            start_server("trainctl.smoke.worker")  # it imports while this process composes
        from trainctl.config.composer import Composer
        from trainctl.smoke.cases import find_cases

        # The plugins that are named are imported by this: what they register is to be tried.
        known = Composer(config_dir).compose(_base(typed.overrides))
        groups = [str(group) for group in known.full.hydra.runtime.choices]
        asked = find_cases(typed.overrides, groups, config_dir, own="--own" in typed.flags)
    if listed:
        for case in asked.cases:
            print(case.label)
        return 0
    with _temporary_folder() as folder:
        return _smoke(asked.cases, asked.settings, config_dir, folder, jobs, junit)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, also where a process killed just now still writes into it."""
    folder = Path(tempfile.mkdtemp(prefix="trainctl-smoke-"))
    try:
        yield folder
    finally:
        for _ in range(50):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def _smoke(
    cases: Sequence[Case],
    settings: Sequence[str],
    config_dir: str | None,
    folder: Path,
    jobs: int,
    junit: Path | None,
) -> int:
    from trainctl.smoke import junit as junit_file
    from trainctl.smoke.pool import SmokePool
    from trainctl.ui.smoke import Lines

    started = time.perf_counter()
    lines = Lines([case.label for case in cases])
    jobs = max(1, min(jobs, len(cases)))
    lines.begin(jobs)
    pool = SmokePool(cases, settings, config_dir, folder, jobs, lines.show)
    try:
        pool.run()
    finally:
        done = [report for report in pool.reports if report.complete]
        took = time.perf_counter() - started
        if junit is not None:
            try:
                junit_file.write(junit, done, took)
            except OSError as error:
                raise storage_error(error, f"writing {junit}") from error
    lines.end(pool.reports, took)
    return 1 if any(report.failed is not None for report in pool.reports) else 0


def _parse(words: Sequence[str]) -> _Words:
    typed, left = _Words(), list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name in _VALUED:
            value = value if equals else left.pop(0) if left else ""
            if not value:
                raise ConfigError(f"{name}: needs a value", f"{name} {_EXAMPLES[name]}")
            typed.values[name] = value
        elif word in _FLAGS:
            typed.flags.add(word)
        elif word.startswith("-"):
            close = nearest(name, _OPTIONS)
            hint = f"did you mean {close}? " if close else ""
            raise ConfigError(f"{word}: smoke has no such option", f"{hint}there are: {', '.join(_OPTIONS)}")
        elif not equals:
            raise ConfigError(
                f"{word}: smoke takes KEY=VALUE words",
                "model=mlp,lenet tries these two; without words all is tried",
            )
        else:
            typed.overrides.append(word)
    return typed


def _base(overrides: Sequence[str]) -> list[str]:
    """The words that hold whatever is chosen: they are checked before anything is tried."""
    from trainctl.config.options import find_members

    groups = find_members()
    keys = {word: split_override(word)[1] for word in overrides}
    return [
        to_hydra(word)
        for word, key in keys.items()
        if key not in groups and not is_component_argument(key) and not key.startswith("hydra.")
    ]


def _jobs(text: str) -> int:
    """How many at a time; auto is one a core."""
    if text == "auto":
        from trainctl.sweep.worker_slots import cores

        return cores()
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise ConfigError(f"--jobs {text}: must be auto, or a whole number from 1", "--jobs 2")
    return int(text)


def _junit(text: str | None) -> Path | None:
    """The file to write. Raises ConfigError where it could not be: before the work, not after it."""
    if text is None:
        return None
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        raise ConfigError(f"--junit {text}: is a folder", f"name a file in it: --junit {path / 'smoke.xml'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--junit {text}: there is no folder {path.parent}", "make it first")
    return path
