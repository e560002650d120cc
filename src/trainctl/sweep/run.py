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
)
from trainctl.paths import short_path
from trainctl.runs.directory import claim_sweep, point_latest
from trainctl.runs.record import now
from trainctl.sweep import fused
from trainctl.sweep.hydra_task import HydraTask
from trainctl.sweep.ledger import Job, Ledger, Row, is_sweep, locked_sweep
from trainctl.sweep.pool import JobPool
from trainctl.sweep.reporter import Reporter
from trainctl.sweep.worker_pool import start_server
from trainctl.sweep.worker_slots import WorkerSlots, choose_slots
from trainctl.training.interrupts import Stopped

log = logging.getLogger("trainctl")
OWN_LAUNCHERS = ("parallel", "fused")
_FEWEST = 8
"""Groups are not split below this number of models: the gain of a stack grows with its size."""


@contextmanager
def sweep_directory(composer: Composer, words: Sequence[str]) -> Iterator[tuple[Path, bool]]:
    """The directory for the sweep of ``words``, locked, and whether it holds a sweep already.

    Raises DirectoryTakenError for a directory with something else.
    """
    named = any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in words)
    directory = Path(composer.sweep_directory(words)).expanduser().absolute()
    again = named and is_sweep(directory)
    if not again:
        directory = claim_sweep(directory, named=named)
    with locked_sweep(directory):
        yield directory, again


def other_sweep(ledger: Ledger) -> DirectoryTakenError:
    """The error for a directory that holds another sweep than the one that was asked for."""
    return DirectoryTakenError(
        f"{ledger.directory} holds another sweep ({ledger.values.get('command')})",
        "give another directory with hydra.sweep.dir=DIR, or leave it out for an automatic one",
    )


def composed_in(composer: Composer) -> dict[str, Any]:
    """What ``sweep.json`` stores to compose the same configs again."""
    return {
        "folder": str(Path.cwd()),
        "config_dir": None if composer.config_dir is None else str(Path(composer.config_dir).absolute()),
        "config_name": composer.config_name,
    }


def require_folder(ledger: Ledger, stored: Mapping[str, Any], why: str) -> None:
    """Raise ConfigError unless this is the folder that :func:`composed_in` stored: conf files and plugins
    would be others here."""
    folder = str(stored.get("folder"))
    if folder != str(Path.cwd()):
        raise ConfigError(f"{ledger.directory}: {why} {folder}", f"resume it there: cd {shlex.quote(folder)}")


@dataclass
class Sweep:
    """A sweep that is being run.

    Attributes:
        jobs: those that this command asks for.
        configs: the config of each.
        launcher: the option of ``hydra/launcher``.
        unasked: jobs that a search will still add.
    """

    ledger: Ledger
    jobs: list[Job]
    configs: list[Config]
    command: str
    launcher: str
    reporter: Reporter
    trust_plugins: bool = False
    noun = "sweep"
    unasked: int = field(default=0, init=False)
    _slots: WorkerSlots | None = field(default=None, init=False)

    def run(self, composer: Composer | None, words: Sequence[str]) -> int:
        """Run the jobs that are not done and show the result; returns the exit code. The caller holds the
        sweep's lock."""
        directory, notice = self.ledger.directory, self.reporter.notice
        rows = [self.ledger.row(job) for job in self.jobs]
        left = [
            job
            for job, row in zip(self.jobs, rows, strict=True)
            if row.state != "done" and not _runs_elsewhere(row)
        ]
        counts = ", ".join(f"{count} {what}" for what, count in self.counts(rows).items() if count)
        notice(f"{self.noun} {short_path(directory)}: {self.size()}{f' ({counts})' if counts else ''}")
        point_latest(directory)
        self.ledger.update(status="running", ended=None)
        stopped: TrainctlError | None = None
        try:
            self.work(left, composer, words)
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
        failed = states.count("failed")
        unfinished = len(states) - states.count("done") + self.unasked
        status = "done" if not unfinished else "failed" if failed == unfinished else "interrupted"
        self.ledger.update(status=status, ended=now())
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
        """How much was asked for, in words."""
        return f"{len(self.jobs)} jobs"

    def counts(self, rows: Sequence[Row]) -> dict[str, int]:
        """How many jobs an earlier command left in which state, in words."""
        states = [row.state for row in rows]
        return {
            "done already": states.count("done"),
            "to resume": states.count("interrupted"),
            "to try again": states.count("failed"),
            "still running on other machines": sum(map(_runs_elsewhere, rows)),
        }

    def work(self, left: Sequence[Job], composer: Composer | None, words: Sequence[str]) -> None:
        """Run the jobs that are left."""
        if left:
            self.launch(left, composer, words)

    def can_resume(self, unfinished: int) -> bool:
        """Whether there is something to resume."""
        return unfinished > 0

    def conclude(self) -> None:
        """Show what belongs below the ranked table."""

    def launch(self, left: Sequence[Job], composer: Composer | None, words: Sequence[str]) -> None:
        """Train these jobs with the sweep's launcher."""
        if self.launcher in OWN_LAUNCHERS or composer is None:
            self._launch_workers(left)
        else:
            self._launch_through_hydra(left, composer, words)

    def _launch_workers(self, left: Sequence[Job]) -> None:
        start_server()
        by_number = {job.number: config for job, config in zip(self.jobs, self.configs, strict=True)}
        configs = [by_number[job.number] for job in left]
        orders, alone = [[job.number] for job in left], dict[str, list[int]]()
        slots = choose_slots(configs, len(left))
        if self.launcher == "fused":
            groups, alone = _groups(left, configs)
            orders = split_groups(groups, slots.count)
            slots = choose_slots(configs, len(orders))
        reporter = self.reporter
        reporter.watch(configs[0].display.mode, left, self.ledger.row)
        try:
            if slots != self._slots:  # the later batches of a search have those of the first
                reporter.notice(str(slots))
                self._slots = slots
            for reason, numbers in alone.items():
                reporter.notice(f"one by one: jobs {', '.join(map(str, numbers))}: {reason}")
            pool = JobPool(
                self.ledger,
                slots,
                self.command,
                reporter.update,
                draw=reporter.draw,
                fail_fast=configs[0].sweep.fail_fast,
                trust_plugins=self.trust_plugins,
            )
            pool.run(orders, left)
        finally:
            reporter.unwatch()

    def _launch_through_hydra(self, left: Sequence[Job], composer: Composer, words: Sequence[str]) -> None:
        """With one of Hydra's launchers: each job finds its row by its words, wherever it runs."""
        # Only Hydra's basic launcher stays in this process, one job at a time.
        reporter = self.reporter if self.launcher == "basic" else None
        task = HydraTask(str(self.ledger.directory), self.command, now(), self.reporter.draw, reporter)
        launcher = composer.instantiate_launcher(words, self.ledger.directory, task)
        try:
            launcher.launch([[*job.words, f"++hydra.sweep.subdir={job.number}"] for job in left], 0)
        except TrainctlError:
            raise
        except Exception as error:
            log.error("hydra/launcher=%s failed", self.launcher, exc_info=error)
            said = str(error).strip().partition("\n")[0]
            raise LauncherError(
                f"hydra/launcher={self.launcher} failed: {type(error).__name__}: {said}",
                "the results of its finished jobs are kept",
            ) from error


def _runs_elsewhere(row: Row) -> bool:
    """Whether another machine trains the job: it is not started here a second time."""
    return row.state == "running" and row.host != platform.node()


def _groups(jobs: Sequence[Job], configs: Sequence[Config]) -> tuple[list[list[int]], dict[str, list[int]]]:
    """The numbers of the jobs that train together, and the jobs that train alone by reason."""
    groups, reasons = fused.plan(configs)
    alone: dict[str, list[int]] = {}
    for index, reason in reasons.items():
        alone.setdefault(reason, []).append(jobs[index].number)
    orders = [[jobs[index].number for index in group] for group in groups]
    return [*orders, *([number] for numbers in alone.values() for number in numbers)], alone


def split_groups(orders: list[list[int]], workers: int) -> list[list[int]]:
    """Split groups so that every worker has one, as long as the pieces are worth stacking."""
    groups = [order for order in orders if len(order) > 1]
    if not groups or len(groups) >= workers:
        return orders
    pieces = -(-workers // len(groups))
    split = []
    for group in groups:
        count = max(1, min(pieces, len(group) // _FEWEST))
        split += [group[piece::count] for piece in range(count)]
    return split + [order for order in orders if len(order) == 1]
