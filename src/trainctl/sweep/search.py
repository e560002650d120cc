"""Search: a sweep whose jobs are chosen by the results of earlier ones.

Trials are asked for in batches, each of as many as run at a time. A trial is a job of the ledger like any
other: checked, appended, launched, resumed after a kill. The study is told its result once. Trials without a
result when the search stops are resumed by the next command; a trial with the settings of a job in the
ledger is that job, so nothing is trained twice.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainctl.config.composer import Composer
from trainctl.config.overrides import to_display
from trainctl.config.settings import Config
from trainctl.config.sweep_jobs import compose_jobs
from trainctl.errors import ConfigError
from trainctl.paths import short_path
from trainctl.registry import plugins, trust
from trainctl.runs.record import now, read_record
from trainctl.sweep.checking import job_key, label, make_job
from trainctl.sweep.hydra_task import failed_since
from trainctl.sweep.ledger import Job, Ledger, Row
from trainctl.sweep.pruning import PRUNED, course_of
from trainctl.sweep.ray.settings import check_ray, places
from trainctl.sweep.reporter import Reporter
from trainctl.sweep.run import (
    OWN_LAUNCHERS,
    Sweep,
    composed_in,
    launcher_of,
    other_sweep,
    require_folder,
    require_own,
    sweep_directory,
)
from trainctl.sweep.search_settings import SearchSettings, check_search, search_key
from trainctl.sweep.space import Space
from trainctl.sweep.worker_slots import choose_slots, cores
from trainctl.training.display import number as shown_number
from trainctl.training.startup import collector_paused

if TYPE_CHECKING:
    from trainctl.sweep.study import Study

_FUSED_BATCH = 16
_GIVE_UP_AFTER = 3


def search(
    composer: Composer, words: Sequence[str], values: Mapping[str, Any], command: str, reporter: Reporter
) -> int:
    """Run the search that ``words`` ask for, or resume the one in the directory that they name; returns the
    exit code, 1 where jobs failed. ``values`` are those of ``hydra.sweeper``.

    Raises ConfigError for a wrong setting or any wrong part of the search space before anything is made,
    DirectoryTakenError for a directory with something else.
    """
    with collector_paused():
        settings, space, config = check_search(composer, words, values)
        key = search_key(space)
        launcher, of_launcher = launcher_of(composer, words)
        asked: dict[str, Any] = {
            "words": list(words),
            "launcher": launcher,
            "launcher_settings": of_launcher,
            "search": {**settings.model_dump(), "asked": key, **composed_in(composer)},
        }
    with sweep_directory(composer, words) as (directory, again):
        if again:
            ledger = Ledger(directory)
            if (ledger.values.get("search") or {}).get("asked") != key:
                raise other_sweep(ledger)
            # More trials, or another sampler: the results so far serve them, too.
            ledger.values.update(asked)
        else:
            stored = plugins.load(config.plugins)
            ledger = Ledger.begin(directory, command=command, **asked, plugins=stored)
            trust.remember(directory, stored, "*")
        current = _search_of(ledger, composer, command, reporter, settings, space, config)
        return current.run(composer, words)


def resume_search(ledger: Ledger, *, command: str, trust_plugins: bool, reporter: Reporter) -> int:
    """Carry the search of ``ledger`` to its last trial; returns the exit code.

    Raises UnsafeInputError for plugin files that have changed, ConfigError for configs that have changed.
    """
    require_own(ledger, "a search", trust_plugins=trust_plugins)
    stored = ledger.values.get("plugins") or []
    trust.checker(ledger.directory, trust_plugins=trust_plugins)([entry["name"] for entry in stored])
    known, words, _ = ledger.needed("search", "words", "launcher")
    if stored:
        require_folder(ledger, known, "its plugins are in")
    with collector_paused():
        composer = Composer(known["config_dir"], known["config_name"])
        checked = check_search(composer, words, composer.sweeper(words)[1])
    current = _search_of(ledger, composer, command, reporter, *checked)
    current.trust_plugins = trust_plugins
    return current.run(composer, words)


def _search_of(
    ledger: Ledger,
    composer: Composer,
    command: str,
    reporter: Reporter,
    settings: SearchSettings,
    space: Space,
    config: Config,
) -> Search:
    """The search with the jobs that it has so far. Raises ConfigError where the same words compose other
    configs than before: trials would be trained twice."""
    jobs = ledger.jobs()
    if jobs:
        (composed,) = compose_jobs(composer, [jobs[0].words])
        if isinstance(composed, ConfigError) or job_key(composed) != jobs[0].key:
            raise ConfigError(
                f"{ledger.directory}: its configs have changed since the search was started",
                f"resume it in {ledger.values['search']['folder']} with the old conf, or start another",
            )
    launcher, configs = str(ledger.values["launcher"]), [config] * len(jobs)
    return Search(
        *(ledger, jobs, configs, command, launcher, reporter), settings=settings, space=space, config=config
    )


@dataclass(kw_only=True)
class Search(Sweep):
    """A search that is being run.

    Attributes:
        config: of one of its jobs; settings that hold for all jobs are read from it.
    """

    settings: SearchSettings
    space: Space
    config: Config
    noun = "search"
    _untold: int = 0
    _tried: set[int] = field(default_factory=set)
    _failures: list[str] = field(default_factory=list)

    def size(self) -> str:
        return f"{self.settings.trials} trials"

    def counts(self, rows: Sequence[Row]) -> dict[str, int]:
        states, diverged = [row.state for row in rows], sum(map(_has_diverged, rows))
        return {
            "done already": states.count("done"),
            "diverged": diverged,
            "to resume": states.count("interrupted"),
            "to try again": states.count("failed") - diverged,
        }

    def can_resume(self, unfinished: int) -> bool:
        return self.to_ask + self._untold > 0

    def work(self, rows: Sequence[Row], composer: Composer | None, words: Sequence[str]) -> None:
        assert composer is not None
        from trainctl.sweep.study import Study

        pruner = self.settings.pruner
        if pruner != "none" and self.launcher == "fused":
            self.reporter.notice(
                f"hydra.sweeper.pruner={pruner}: jobs that train as one model are not pruned"
            )
        study = Study(self.ledger.directory, self.space, self.settings.sampler, self.settings.seed)
        self.ledger.update()
        size = self._batch_size()
        try:
            while trials := self._next(study, composer, size):
                began = now()
                self._launch_all(trials, composer, words)
                for number, job in trials.items():
                    self._tell(study, number, job)
                self._show_progress(study)
                if self.config.sweep.fail_fast and failed_since(self.ledger, began):
                    break
        finally:
            self._untold, self.to_ask = len(study.open_numbers()), self._left_to_ask(study)
            study.close()

    # ------------------------------------------------------------------- asking

    def _batch_size(self) -> int:
        if self.settings.batch != "auto":
            return self.settings.batch
        if self.launcher == "fused":
            return _FUSED_BATCH
        if self.launcher == "basic":
            return 1
        if self.launcher == "ray":
            return places(check_ray(self.ledger.values["launcher_settings"]), self.config)
        if self.launcher not in OWN_LAUNCHERS:
            return cores()
        return choose_slots([self.config], self.settings.trials).count

    def _left_to_ask(self, study: Study) -> int:
        """Trials still to be asked for; none when every combination has been a job."""
        if len(self.jobs) >= self.space.size:
            return 0
        most = min(self.settings.trials, self.space.size if self.settings.sampler == "grid" else math.inf)
        return max(0, int(most) - study.count())

    def _next(self, study: Study, composer: Composer, size: int) -> dict[int, Job]:
        """The next batch, jobs by trial: first the open trials of an earlier command, then new ones."""
        with collector_paused():
            while True:
                left = [each for each in study.open().items() if each[0] not in self._tried]
                asked = dict(left[:size])
                for _ in range(min(size - len(asked), self._left_to_ask(study))):
                    number, values = study.ask()
                    asked[number] = values
                # If none of these composes there may still be others.
                if not asked or (trials := self._enter(study, asked, composer)):
                    return trials if asked else {}

    def _enter(
        self, study: Study, asked: Mapping[int, Mapping[str, Any]], composer: Composer
    ) -> dict[int, Job]:
        """The trials with their jobs; new jobs are appended to the ledger."""
        indices = {job.key: index for index, job in enumerate(self.jobs)}
        before, trials = len(self.jobs), {}
        composed_ones = compose_jobs(composer, [self.space.job(values) for values in asked.values()])
        for (number, values), composed in zip(asked.items(), composed_ones, strict=True):
            name = label(self.space.chosen(values))
            if isinstance(composed, ConfigError):
                self.reporter.notice(f"trial {number} left out: {name} ({composed})")
                self._fail(study, number, str(composed))
                continue
            key = job_key(composed)
            if (index := indices.setdefault(key, len(self.jobs))) == len(self.jobs):
                self.jobs.append(make_job(composed, key, index, name))
                self.configs.append(composed.config)
            self.configs[index] = composed.config
            trials[number] = self.jobs[index]
        self.ledger.add(self.jobs[before:])
        return trials

    def _launch_all(self, trials: Mapping[int, Job], composer: Composer, words: Sequence[str]) -> None:
        left: dict[int, Job] = {}
        for number, job in trials.items():
            row = self.ledger.row(job)
            if row.state == "done" or _has_diverged(row) or job.number in left:
                self.reporter.notice(f"trial {number}: {job.label} is job {job.number}, not trained again")
            else:
                left[job.number] = job
        if left:
            self.launch(list(left.values()), composer, words)

    # ------------------------------------------------------------------- telling

    def _tell(self, study: Study, number: int, job: Job) -> None:
        """Tell the study the result of a trial; it stays open while its job can still succeed."""
        self._tried.add(number)
        row = self.ledger.row(job)
        study.note(number, job=job.number)
        if row.state != "done":
            if _has_diverged(row):
                self._fail(study, number, row.reason)
            elif row.state == "failed" and row.exit_code == ConfigError.exit_code:
                self._count_failure(study, row.reason or "")
            return
        name, value, lower = self._reached(job)
        if value is None:
            self._fail(study, number, f"{name} was never computed")
            self._count_failure(study, f"{name} was never computed (dataset.val=0?)")
            return
        study.note(number, **{name: value})
        course = course_of(self.ledger.directory_of(job), name, lower)
        study.tell(number, value if lower else -value, course, pruned=_was_pruned(row))

    @staticmethod
    def _fail(study: Study, number: int, reason: str | None) -> None:
        study.note(number, reason=reason)
        study.tell(number, None)

    def _reached(self, job: Job) -> tuple[str, float | None, bool]:
        """The monitored value of a job: its name, its best value, and whether lower is better."""
        record = read_record(self.ledger.directory_of(job))
        monitor = record.get("monitor") or {}
        name = str(monitor.get("name"))
        value = (record.get("best") or {}).get(name)
        reached = float(value) if isinstance(value, int | float) and math.isfinite(value) else None
        return name, reached, bool(monitor.get("lower_is_better"))

    def _count_failure(self, study: Study, reason: str) -> None:
        """Raise ConfigError if one job after another fails for the same reason and none has succeeded."""
        self._failures.append(reason)
        if self._failures.count(reason) >= _GIVE_UP_AFTER and not study.succeeded():
            raise ConfigError(
                f"{_GIVE_UP_AFTER} jobs of the search failed and none succeeded: {reason}",
                f"correct that, then: trainctl resume {short_path(self.ledger.directory)}",
            )

    # ------------------------------------------------------------------- showing

    def _show_progress(self, study: Study) -> None:
        if self.config.display.mode == "none":
            return
        best = self._best()
        found = "" if best is None else f", best {best[1]} {shown_number(best[2])} (job {best[0].number})"
        told = study.count() - len(study.open_numbers())
        self.reporter.notice(f"{told} of {self.settings.trials} trials{found}")

    def _best(self) -> tuple[Job, str, float] | None:
        """The best job that was trained to its end, the name of the monitored value, and the value."""
        found: list[tuple[float, int, Job, str, float]] = []
        for job in self.jobs:
            row = self.ledger.row(job)
            if row.state == "done" and not _was_pruned(row):
                name, value, lower = self._reached(job)
                if value is not None:
                    found.append((value if lower else -value, job.number, job, name, value))
        return min(found, key=lambda each: each[:2])[2:] if found else None

    def conclude(self) -> None:
        notice = self.reporter.notice
        if self.to_ask == 0 and self.space.size <= len(self.jobs) < self.settings.trials:
            notice(f"every combination was tried: {len(self.jobs)}")
        if (best := self._best()) is not None:
            job, name, value = best
            options = self.ledger.values["search"]
            given = [] if options["config_dir"] is None else ["--config-dir", options["config_dir"]]
            given += [] if options["config_name"] == "config" else ["--config-name", options["config_name"]]
            words = [word for word in job.words if word != "pictures=false"]  # the sweep added it
            command = shlex.join(["trainctl", *given, *map(to_display, words)])
            notice(f"best: job {job.number}, {name} {shown_number(value)}; again with:\n  {command}")


def _has_diverged(row: Row) -> bool:
    """Whether a job failed because of its settings: it is not tried again."""
    return row.state == "failed" and row.exit_code == 6


def _was_pruned(row: Row) -> bool:
    return (row.reason or "").startswith(PRUNED)
