"""Test every config briefly, from composing to export."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainctl.cli.options import CONFIG_DIR, Argument, Command, Option, output_file
from trainctl.config.overrides import is_component_argument, split_override, to_hydra
from trainctl.errors import ConfigError, storage_error
from trainctl.smoke.settings import refuse
from trainctl.training.startup import collector_paused

if TYPE_CHECKING:
    from trainctl.smoke.cases import Case

_MOST = 1024


def _jobs(option: str, text: str) -> int:
    """How many at a time; auto is one for each core."""
    if text == "auto":
        from trainctl.sweep.worker_slots import cores

        return cores()
    if not text.isdecimal() or not 1 <= int(text) <= _MOST:
        raise ConfigError(f"{option} {text}: must be auto, or a whole number from 1", f"{option} 2")
    return int(text)


COMMAND = Command(
    __name__,
    __doc__,
    (
        Argument(
            "KEY=VALUE",
            "model=mlp,lenet tests only these (default: everything); other settings apply to all",
            least=0,
            most=None,
        ),
    ),
    (
        Option("--own", "test your own options only, not those of trainctl"),
        Option("--list", "list what would be tested, and stop"),
        Option("--jobs", "configs at a time; auto: one for each core", "auto|N", default="auto", read=_jobs),
        output_file("--junit", "write a JUnit report for CI", "smoke.xml", missing=ConfigError),
        CONFIG_DIR,
    ),
    (
        ("Everything, with a report for CI.", "trainctl smoke --junit smoke.xml"),
        ("Two models and a recipe.", "trainctl smoke model=mlp,lenet experiment=digits_cosine"),
    ),
    {1: "a config failed, or an internal error", 3: ""},
)


def run(words: list[str]) -> int:
    """Compose, build, train, save, kill, resume, compare, evaluate, predict with and export every option.

    Overrides that choose (``model=mlp,lenet``, ``experiment=a``) select what is tested; the others apply to
    every config. ``--own`` leaves out trainctl's own options, ``--list`` only names what would be tested.
    Returns 1 where one failed. Runs go to a temporary folder; nothing is downloaded. Raises ConfigError for
    overrides that select nothing, and for settings that smoke itself needs.
    """
    asked = COMMAND.parse(words)
    overrides, listed, config_dir = asked.overrides, asked["--list"], asked["--config-dir"]
    _check(overrides)
    junit = asked["--junit"] and asked["--junit"].absolute()
    with collector_paused():
        from trainctl.sweep.worker_pool import start_server

        if not listed:
            start_server("trainctl.smoke.worker")  # it imports while this process composes
        from trainctl.config.composer import Composer
        from trainctl.smoke.cases import find_cases

        # Composing imports the plugins: the components that they register are tested, too.
        known = Composer(config_dir).compose(_base(overrides))
        groups = [str(group) for group in known.full.hydra.runtime.choices]
        cases, settings = find_cases(overrides, groups, config_dir, own=asked["--own"])
    if listed:
        for case in cases:
            print(case.label)
        return 0
    with _temporary_folder() as folder:
        return _smoke(cases, settings, config_dir, folder, asked["--jobs"], junit)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is deleted afterwards, even where a killed process still writes into it."""
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


def _check(overrides: Sequence[str]) -> None:
    for word in overrides:
        if "=" not in word:
            raise ConfigError(
                f"{word}: smoke takes KEY=VALUE words",
                "model=mlp,lenet tests these two; without words everything is tested",
            )
    refuse(overrides)


def _base(overrides: Sequence[str]) -> list[str]:
    """The overrides that apply to every config: they are checked before anything is tested."""
    from trainctl.config.options import find_members
    from trainctl.registry import TASKS

    groups = {*find_members(), TASKS.group}
    keys = {override: split_override(override)[1] for override in overrides}
    return [
        to_hydra(override)
        for override, key in keys.items()
        if key not in groups and not is_component_argument(key) and not key.startswith("hydra.")
    ]
