"""A sweep that is being run: its jobs launched, its result shown."""

from __future__ import annotations

import logging
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainctl.config.composer import Composer
from trainctl.config.settings import Config
from trainctl.errors import (
    ConfigError,
    DirectoryTakenError,
    InterruptedRunError,
    LauncherError,
    TrainctlError,
    UnsafeInputError,
)
from trainctl.paths import short_path
from trainctl.registry import trust
from trainctl.runs.directory import claim_sweep, point_latest
from trainctl.runs.record import now
from trainctl.sweep import fused
from trainctl.sweep.hydra_task import HydraTask
from trainctl.sweep.ledger import Job, Ledger, Row, is_sweep, locked_sweep
from trainctl.sweep.pool import JobPool, SweepPool
from trainctl.sweep.ray.settings import check_ray
from trainctl.sweep.reporter import Reporter
from trainctl.sweep.worker_pool import start_server
from trainctl.sweep.worker_slots import WorkerSlots, choose_slots
from trainctl.training.interrupts import Stopped

log = logging.getLogger("trainctl")
LOCAL_LAUNCHERS = ("parallel", "fused")
OWN_LAUNCHERS = (*LOCAL_LAUNCHERS, "ray")
_FEWEST = 8
"""Groups are not split below this number of models: the gain of a stack grows with its size."""


@contextmanager
def sweep_directory(composer: Composer, words: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    """The directory for the sweep of ``words``, locked, and whether it holds a sweep already: one that was
    killed right after it had taken the directory has not begun.

    Raises DirectoryTakenError for a directory with something else.
    """
    named = any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in words)
    directory = Path(composer.sweep_directory(words)).expanduser().absolute()
    again = named and is_sweep(directory)
    if not again:
        directory = claim_sweep(directory, named=named)
    with locked_sweep(directory):
        yield directory, again and not _is_only_claimed(directory)


def _is_only_claimed(directory: Path) -> bool:
    """Whether a sweep has taken ``directory`` and written nothing else there."""
    names = {path.name for path in directory.iterdir()}
    return names <= {"sweep.json", ".lock", "ledger"} and "words" not in Ledger(directory).values


def other_sweep(ledger: Ledger) -> DirectoryTakenError:
    """The error for a directory that holds another sweep than the one that was asked for."""
    return DirectoryTakenError(
        f"{ledger.directory} holds another sweep ({ledger.values.get('command')})",
        "give another directory with hydra.sweep.dir=DIR, or leave it out for an automatic one",
    )


def composed_in(composer: Composer) -> dict[str, Any]:
    """The entries of ``sweep.json`` for composing the same configs again."""
    return {
        "folder": str(Path.cwd()),
        "config_dir": None if composer.config_dir is None else str(Path(composer.config_dir).absolute()),
        "config_name": composer.config_name,
    }


def launcher_of(composer: Composer, words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The option of ``hydra/launcher``, and the settings of one that needs them again on resume. Raises
    ConfigError for wrong ones, and where their cluster does not answer."""
    launcher, settings = composer.launcher(words)
    if launcher != "ray":
        return launcher, {}
    check_ray(settings)
    return launcher, settings


def require_folder(ledger: Ledger, stored: Mapping[str, Any], why: str) -> None:
    """Raise ConfigError unless this is the folder that :func:`composed_in` stored: conf files and plugins
    would be others here."""
    folder = str(stored.get("folder"))
    if folder != str(Path.cwd()):
        raise ConfigError(f"{ledger.directory}: {why} {folder}", f"resume it there: cd {shlex.quote(folder)}")


def require_own(ledger: Ledger, what: str, *, trust_plugins: bool) -> None:
    """Raise UnsafeInputError unless this user started the sweep here: it is composed again from configs that
    the sweep names, and ``what`` they say is done."""
    if not trust_plugins and not trust.is_own(ledger.directory):
        raise UnsafeInputError(
            f"{ledger.directory}: {what} is composed from configs that the sweep names, and you did not start"
            " it on this machine",
            "if you trust it, say so with --trust-plugins",
        )


@dataclass
class Sweep:
    """A sweep that is being run.

    Attributes:
        jobs, configs: the jobs of this command, and the config of each.
        launcher: the option of ``hydra/launcher``.
        to_ask: jobs that a search will still add.
    """

    ledger: Ledger
    jobs: list[Job]
    configs: list[Config]
    command: str
    launcher: str
    reporter: Reporter
    trust_plugins: bool = False
    noun = "sweep"
    to_ask: int = field(default=0, init=False)
    _places: str | None = field(default=None, init=False)

    def run(self, composer: Composer | None, words: Sequence[str]) -> int:
        """Run the jobs that are not done and show the result; returns the exit code. The caller holds the
        sweep's lock."""
        directory, notice = self.ledger.directory, self.reporter.notice
        rows = [self.ledger.row(job) for job in self.jobs]
        counts = ", ".join(f"{count} {state}" for state, count in self.counts(rows).items() if count)
        notice(f"{self.noun} {short_path(directory)}: {self.size()}{f' ({counts})' if counts else ''}")
        point_latest(directory)
        self.ledger.update(status="running", ended=None)
        stopped: TrainctlError | None = None
        try:
            self.work(rows, composer, words)
        except Stopped as reason:
            stopped = reason.error
        except KeyboardInterrupt:
            stopped = InterruptedRunError("interrupted")
        except TrainctlError as error:
            if error.status not in ("interrupted", "terminated") and not isinstance(error, LauncherError):
                self.ledger.update(status="failed", ended=now())
                raise
            stopped = error
        states = [self.ledger.row(job).state for job in self.jobs]
        unfinished = len(states) - states.count("done") + self.to_ask
        all_failed = states.count("failed") == unfinished
        self.ledger.update(
            status="done" if not unfinished else "failed" if all_failed else "interrupted", ended=now()
        )
        point_latest(directory)
        self.reporter.answer(directory)
        self.conclude()
        notice(f"{self.noun}: {short_path(directory)}")
        if self.can_resume(unfinished):
            notice(f"resume with: trainctl resume {short_path(directory)}")
        if stopped is not None:
            raise stopped
        return 1 if unfinished else 0

    def size(self) -> str:
        """The number of jobs, in words."""
        return f"{len(self.jobs)} job{'s' * (len(self.jobs) != 1)}"

    def counts(self, rows: Sequence[Row]) -> dict[str, int]:
        """The number of jobs in each state that an earlier command left."""
        states = [row.state for row in rows]
        return {
            "done already": states.count("done"),
            "to resume": states.count("interrupted"),
            "to try again": states.count("failed"),
            "still running on other machines": sum(map(_runs_elsewhere, rows)),
        }

    def work(self, rows: Sequence[Row], composer: Composer | None, words: Sequence[str]) -> None:
        """Run the jobs that are left, given the row of each."""
        pairs = zip(self.jobs, rows, strict=True)
        if left := [job for job, row in pairs if row.state != "done" and not _runs_elsewhere(row)]:
            self.launch(left, composer, words)

    def can_resume(self, unfinished: int) -> bool:
        return unfinished > 0

    def conclude(self) -> None:
        """Show lines below the ranked table."""

    def launch(self, left: Sequence[Job], composer: Composer | None, words: Sequence[str]) -> None:
        """Train these jobs with the sweep's launcher."""
        if self.launcher in OWN_LAUNCHERS or composer is None:
            self._launch_workers(left)
        else:
            self._launch_through_hydra(left, composer, words)

    def _launch_workers(self, left: Sequence[Job]) -> None:
        by_number = {job.number: config for job, config in zip(self.jobs, self.configs, strict=True)}
        configs = {job.number: by_number[job.number] for job in left}
        orders, reasons = [[job.number] for job in left], dict[str, list[int]]()
        pool: SweepPool
        if self.launcher == "ray":
            pool, places = self._ray_pool(configs)
        else:
            start_server()
            slots = choose_slots(list(configs.values()), len(left))
            if self.launcher == "fused":
                orders, reasons = _grouped(configs, slots.count)
                slots = choose_slots(list(configs.values()), len(orders))
            pool, places = (
                self._job_pool(slots, fail_fast=configs[left[0].number].sweep.fail_fast),
                str(slots),
            )
        reporter = self.reporter
        reporter.watch(configs[left[0].number].display.mode, left, pool.row)
        try:
            if places != self._places:  # the later batches of a search have those of the first
                reporter.notice(places)
                self._places = places
            for reason, numbers in reasons.items():
                reporter.notice(f"one by one: jobs {', '.join(map(str, numbers))}: {reason}")
            pool.run(orders, left, reporter.update)
        finally:
            reporter.unwatch()

    def _job_pool(self, slots: WorkerSlots, *, fail_fast: bool) -> JobPool:
        given = (self.ledger, slots, self.command, self.reporter.draw)
        return JobPool(*given, trust_plugins=self.trust_plugins, fail_fast=fail_fast)

    def _ray_pool(self, configs: Mapping[int, Config]) -> tuple[SweepPool, str]:
        from trainctl.sweep.ray.pool import RayPool

        settings = check_ray(self.ledger.values.get("launcher_settings") or {})
        given = (self.ledger, settings, configs, self.command, self.reporter.draw)
        pool = RayPool(*given, trust_plugins=self.trust_plugins, notice=self.reporter.notice)
        return pool, pool.describe()

    def _launch_through_hydra(self, left: Sequence[Job], composer: Composer, words: Sequence[str]) -> None:
        """With one of Hydra's launchers: each job finds its row by its words, wherever it runs."""
        # Only Hydra's basic launcher stays in this process, one job at a time.
        reporter = self.reporter if self.launcher == "basic" else None
        task = HydraTask(
            *(str(self.ledger.directory), self.command, now(), self.reporter.draw, len(self.jobs), reporter)
        )
        launcher = composer.instantiate_launcher(words, self.ledger.directory, task)
        try:
            launcher.launch([[*job.words, f"++hydra.sweep.subdir={job.number}"] for job in left], 0)
        except TrainctlError:
            raise
        except Exception as error:
            log.info("hydra/launcher=%s failed", self.launcher, exc_info=error)
            said = str(error).strip().partition("\n")[0]
            raise LauncherError(
                f"hydra/launcher={self.launcher} failed: {type(error).__name__}: {said}",
                "the results of its finished jobs are kept",
            ) from error


def _runs_elsewhere(row: Row) -> bool:
    """Whether another machine trains the job: it is not started here a second time."""
    return row.state == "running" and row.host != platform.node()


def _grouped(configs: Mapping[int, Config], workers: int) -> tuple[list[list[int]], dict[str, list[int]]]:
    """The orders of a fused sweep, and the jobs that train alone by the reason for it."""
    numbers, reasons = list(configs), dict[str, list[int]]()
    groups, alone = fused.plan(list(configs.values()))
    for index, reason in alone.items():
        reasons.setdefault(reason, []).append(numbers[index])
    orders = split_groups([[numbers[index] for index in group] for group in groups], workers)
    return orders + [[number] for each in reasons.values() for number in each], reasons


def split_groups(groups: Sequence[list[int]], workers: int) -> list[list[int]]:
    """Split groups so that every worker has one, as long as the pieces are worth stacking."""
    pieces = -(-workers // max(1, len(groups)))
    split = []
    for group in groups:
        count = max(1, min(pieces, len(group) // _FEWEST))
        split += [group[piece::count] for piece in range(count)]
    return split
