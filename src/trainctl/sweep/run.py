"""Running a sweep: checked, entered into the ledger, launched, ranked; and carrying one on."""

from __future__ import annotations

import logging
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trainctl.config.composer import Composer
from trainctl.config.overrides import quote, split_override
from trainctl.config.settings import Config
from trainctl.config.stored_config import parse_config
from trainctl.errors import (
    ConfigError,
    DirectoryTakenError,
    InterruptedRunError,
    LauncherError,
    TrainctlError,
)
from trainctl.paths import short_path
from trainctl.registry import plugins
from trainctl.runs.directory import claim_sweep, find, point_latest
from trainctl.runs.record import now
from trainctl.sweep.checking import Checked, check_jobs
from trainctl.sweep.job import locked_sweep, run_job
from trainctl.sweep.ledger import Job, Ledger, Row, is_sweep, next_number
from trainctl.sweep.pool import Places, Pool, describe, places, warm_up
from trainctl.training.interrupts import Stopped
from trainctl.training.startup import collector_paused
from trainctl.ui.display import make_display
from trainctl.ui.errors import show_error
from trainctl.ui.jobs import show_answer
from trainctl.ui.sweep import make_sweep_display

log = logging.getLogger("trainctl")
OWN = ("parallel", "fused")
_FEWEST = 8
"""Models that a group is not cut below: the gain of a stack grows with its size."""


def sweep(composer: Composer, words: Sequence[str], command: str) -> int:
    """Run the sweep that ``words`` ask for; returns the exit code, 1 where jobs failed.

    Raises ConfigError with every problem of every job before anything is made, DirectoryTakenError for a
    directory with another sweep, InterruptedRunError or TerminatedRunError when told to stop.
    """
    words = _with_runs_found(_without_pictures(words))
    sweeper, settings = composer.sweeper(words)
    if sweeper == "optuna":
        from trainctl.sweep.search import search

        return search(composer, words, settings, command)
    if sweeper != "basic":
        raise ConfigError(f"hydra/sweeper={sweeper}: not served", "there are: basic, optuna")
    with collector_paused():
        checked = check_jobs(composer, words)
        place = composer.sweep_directory(words)
    launcher = composer.launcher(words)
    named = any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in words)
    directory = Path(place).expanduser().absolute()
    again = named and is_sweep(directory)
    if not again:
        directory = claim_sweep(directory, named=named)
    with locked_sweep(directory):
        if again:
            ledger = Ledger(directory)
            jobs = _join(ledger, checked)
        else:
            ledger = Ledger.begin(
                directory,
                command=command,
                words=list(words),
                launcher=launcher,
                plugins=plugins.load(checked.configs[0].plugins),
                **where_from(composer),
            )
            jobs = checked.jobs
            ledger.add(jobs)
        current = Sweep(ledger, jobs, checked.configs, command, launcher)
        for notice in checked.notices:
            print(notice)
        return current.run(composer, words)


def where_from(composer: Composer) -> dict[str, Any]:
    """What it takes to compose the same again."""
    return {
        "folder": str(Path.cwd()),
        "config_dir": None if composer.config_dir is None else str(Path(composer.config_dir).absolute()),
        "config_name": composer.config_name,
    }


def _with_runs_found(words: Sequence[str]) -> list[str]:
    """``init_from=last`` with the directory that it means: as soon as the sweep begins, the newest is the
    sweep itself, and a name may later be that of another run."""
    found = []
    for word in words:
        _, key, value = split_override(word)
        names = [part.strip("'\"") for part in value.split(",")]
        if key == "init_from" and all(names) and not set(value) & set("$[](){}\\") and value != "null":
            word = f"init_from={','.join(quote(str(find(name))) for name in names)}"
        found.append(word)
    return found


def _without_pictures(words: Sequence[str]) -> list[str]:
    """Two pictures a job take longer than a small job: in a sweep they are drawn where they are asked for."""
    asked = any(word.lstrip("+~").partition("=")[0] == "pictures" for word in words)
    return list(words) if asked else [*words, "pictures=false"]


def resume_sweep(directory: Path, *, command: str, trust_plugins: bool) -> int:
    """Carry the sweep in ``directory`` to its end; returns the exit code.

    What is done stays, what was interrupted goes on from its checkpoint, what failed is tried again. Raises
    UnsafeInputError for plugin files that have changed.
    """
    with locked_sweep(directory):
        ledger = Ledger(directory)
        if ledger.values.get("search"):
            from trainctl.sweep.search import resume_search

            return resume_search(ledger, command=command, trust_plugins=trust_plugins)
        return _resume(ledger, command, trust_plugins)


def _resume(ledger: Ledger, command: str, trust_plugins: bool) -> int:
    directory, jobs = ledger.directory, ledger.jobs()
    if not jobs:
        raise ConfigError(
            f"{directory}: the sweep was stopped before its jobs were written down",
            f"start it again: {ledger.values.get('command')}",
        )

    def trusted(named: list[str]) -> None:
        if not trust_plugins:
            plugins.refuse_changed(named, ledger.values.get("plugins") or [])

    with collector_paused():
        rows = {job.number: ledger.row(job) for job in jobs}
        left = [job for job in jobs if rows[job.number].state != "done"]
        # One tells how to run them all; a fused sweep must know of each what it has in common with others.
        launcher = str(ledger.values.get("launcher") or "parallel")
        composer = None if launcher in OWN else _composer_of(ledger)
        asked = left if launcher == "fused" else left[:1] or jobs[:1]
        configs = {
            job.number: parse_config(job.files["config.yaml"], f"job {job.number}", trusted) for job in asked
        }
    if not left:
        print(f"{short_path(directory)}: this sweep is finished, there is nothing to resume")
        show_answer(directory)
        return 0
    known = [configs.get(job.number) or next(iter(configs.values())) for job in jobs]
    current = Sweep(ledger, jobs, known, command, launcher, trust_plugins=trust_plugins)
    return current.run(composer, ledger.values["words"])


def _composer_of(ledger: Ledger) -> Composer:
    """What composed the sweep. Raises ConfigError where its launcher could be another one by now."""
    launcher = ledger.values["launcher"]
    require_folder(ledger, ledger.values, f"hydra/launcher={launcher} is set up by the conf of")
    return Composer(ledger.values["config_dir"], ledger.values["config_name"])


def require_folder(ledger: Ledger, stored: Mapping[str, Any], what_is_of: str) -> None:
    """Raise ConfigError where this is not the folder that :func:`where_from` stored: something else would be
    found here."""
    folder = str(stored.get("folder"))
    if folder != str(Path.cwd()):
        raise ConfigError(
            f"{ledger.directory}: {what_is_of} {folder}", f"resume it there: cd {shlex.quote(folder)}"
        )


def _join(ledger: Ledger, checked: Checked) -> list[Job]:
    """The jobs of a sweep that is run again in its directory; those it has not yet are added."""
    known = {job.key: job for job in ledger.jobs()}
    if known and not any(job.key in known for job in checked.jobs):
        raise DirectoryTakenError(
            f"{ledger.directory} holds another sweep ({ledger.values.get('command')})",
            "name another directory with hydra.sweep.dir=DIR, or leave it out for an automatic one",
        )
    number = next_number(list(known.values()))
    added = [job for job in checked.jobs if job.key not in known]
    added = [replace(job, number=number + index) for index, job in enumerate(added)]
    ledger.add(added)
    every = {**known, **{job.key: job for job in added}}
    return [every[job.key] for job in checked.jobs]


@dataclass
class Sweep:
    """A sweep that is being run.

    Attributes:
        jobs: those that this command asks for.
        configs: the settings of each.
        launcher: the option of ``hydra/launcher``.
        unasked: jobs that are still to come.
    """

    ledger: Ledger
    jobs: list[Job]
    configs: list[Config]
    command: str
    launcher: str
    trust_plugins: bool = False
    noun = "sweep"
    unasked: int = field(default=0, init=False)
    _where: Places | None = field(default=None, init=False)

    def run(self, composer: Composer | None, words: Sequence[str]) -> int:
        """Launch what is not done and show the answer; returns the exit code. The sweep is locked by then."""
        directory = self.ledger.directory
        rows = [self.ledger.row(job) for job in self.jobs]
        left = [
            job
            for job, row in zip(self.jobs, rows, strict=True)
            if row.state != "done" and not _runs_elsewhere(row)
        ]
        print(f"{self.noun} {short_path(directory)}: {self.asked()}{self.begun(rows)}", flush=True)
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
        after = [self.ledger.row(job) for job in self.jobs]
        failed = sum(row.state == "failed" for row in after)
        unfinished = sum(row.state != "done" for row in after) + self.unasked
        status = "done" if not unfinished else "failed" if failed == unfinished else "interrupted"
        self.ledger.update(status=status, ended=now())
        point_latest(directory)
        show_answer(directory)
        self.close()
        print(f"{self.noun}: {short_path(directory)}")
        if self.to_carry_on(unfinished):
            print(f"carry on with: trainctl resume {short_path(directory)}")
        if stopped is not None:
            raise stopped
        return 1 if unfinished else 0

    def asked(self) -> str:
        """What was asked for, in words."""
        return f"{len(self.jobs)} jobs"

    def begun(self, rows: Sequence[Row]) -> str:
        """What an earlier command has left, in words."""
        states = [row.state for row in rows]
        counts = {
            "done already": states.count("done"),
            "to carry on": states.count("interrupted"),
            "to try again": states.count("failed"),
            "still running on other machines": sum(map(_runs_elsewhere, rows)),
        }
        return counted(counts)

    def work(self, left: Sequence[Job], composer: Composer | None, words: Sequence[str]) -> None:
        """Run the jobs that are left."""
        if left:
            self.launch(left, composer, words)

    def to_carry_on(self, unfinished: int) -> int:
        """How many jobs it is worth resuming for."""
        return unfinished

    def close(self) -> None:
        """What is said after the ranked table."""

    def launch(self, left: Sequence[Job], composer: Composer | None, words: Sequence[str]) -> None:
        if self.launcher in OWN or composer is None:
            self._own(left, fused=self.launcher == "fused")
        else:
            self._through_hydra(left, composer, words)

    def _own(self, left: Sequence[Job], *, fused: bool) -> None:
        warm_up()
        configs = [self._config(job) for job in left]
        config = configs[0]
        orders = [[job.number] for job in left]
        alone: dict[str, list[int]] = {}
        if fused:
            orders, alone = self._groups(left, configs)
        where = places(configs, len(left))
        if fused:
            orders = _split(orders, where.count)
            where = places(configs, len(orders))
        display = make_sweep_display(config.display.mode, left, self.ledger.row)
        try:
            if where != self._where:  # the next ones of a search have those of the ones before
                display.notice(describe(where))
                self._where = where
            for reason, numbers in alone.items():
                display.notice(f"one by one: jobs {', '.join(map(str, numbers))}: {reason}")
            pool = Pool(
                self.ledger,
                where,
                self.command,
                display.update,
                fail_fast=config.sweep.fail_fast,
                trust_plugins=self.trust_plugins,
            )
            pool.run(orders, left)
        finally:
            display.close()

    def _config(self, job: Job) -> Config:
        return self.configs[next(index for index, each in enumerate(self.jobs) if each.number == job.number)]

    @staticmethod
    def _groups(
        left: Sequence[Job], configs: Sequence[Config]
    ) -> tuple[list[list[int]], dict[str, list[int]]]:
        """The jobs that train as one, and the reasons why others do not."""
        from trainctl.sweep import fused

        groups, reasons = fused.plan(configs)
        alone: dict[str, list[int]] = {}
        for index, reason in reasons.items():
            alone.setdefault(reason, []).append(left[index].number)
        orders = [[left[index].number for index in group] for group in groups]
        return [*orders, *([number] for numbers in alone.values() for number in numbers)], alone

    def _through_hydra(self, left: Sequence[Job], composer: Composer, words: Sequence[str]) -> None:
        """One of Hydra's launchers: each job finds its row by its words, wherever it runs."""
        here = self.launcher == "basic"
        task = Task(str(self.ledger.directory), self.command, shown=here, began=now())
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
                "what its jobs have done so far is kept",
            ) from error


@dataclass(frozen=True)
class Task:
    """What one of Hydra's launchers calls once a job, in this process or in another one, or on another
    machine.

    Attributes:
        directory: the sweep's.
        command: the command line, for ``run.json``.
        shown: the job has the terminal for itself.
        began: when the sweep was started, as ``now`` gives it.
    """

    directory: str
    command: str
    shown: bool
    began: str

    def __call__(self, config: DictConfig) -> dict[str, Any]:
        words = tuple(HydraConfig.get().overrides.task)
        ledger = Ledger(Path(self.directory))
        jobs = ledger.jobs()
        job = next(job for job in jobs if job.words == words)
        if config.sweep.fail_fast and failed_since(ledger, jobs, self.began):
            return {"number": job.number, "state": "waiting"}
        display = None
        if self.shown:
            print(f"job {job.number + 1}/{len(jobs)}: {job.label}", flush=True)
            display = make_display(config.display.mode, config.display.every)
        try:
            row = run_job(ledger, job, self.command, display=display)
        except Stopped:
            if self.shown:
                raise
            # The job alone was told to stop, by its machine. Launchers take only exceptions for an answer.
            return {"number": job.number, "state": "interrupted"}
        if row.state == "failed":
            show_error(TrainctlError(f"job {job.number}: {row.reason}"))
        return {"number": job.number, "state": row.state}


def failed_since(ledger: Ledger, jobs: Sequence[Job], began: str) -> bool:
    """Whether a job failed after ``began``."""
    rows = [ledger.stored(job) for job in jobs]
    return any(row.state == "failed" and (row.ended or "") >= began for row in rows)


def _runs_elsewhere(row: Row) -> bool:
    """Whether another machine trains the job: it is not begun here a second time."""
    return row.state == "running" and row.host != platform.node()


def _split(orders: list[list[int]], workers: int) -> list[list[int]]:
    """Groups cut so that every worker has one, as long as a piece is still worth stacking."""
    groups = [order for order in orders if len(order) > 1]
    if not groups or len(groups) >= workers:
        return orders
    asked = -(-workers // len(groups))
    cut = []
    for group in groups:
        pieces = max(1, min(asked, len(group) // _FEWEST))
        cut += [group[piece::pieces] for piece in range(pieces)]
    return cut + [order for order in orders if len(order) == 1]


def counted(counts: Mapping[str, int]) -> str:
    """Those that are there, in brackets."""
    said = [f"{count} {what}" for what, count in counts.items() if count]
    return f" ({', '.join(said)})" if said else ""
