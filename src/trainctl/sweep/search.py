"""Search: a sweep whose jobs are chosen by the results of earlier ones.

Trials are asked for in batches, each the size of what runs at a time. A trial is a job of the ledger like any
other: checked, appended, launched, carried on after a kill. Its end is told to the study once. What is not
told when the search stops is carried on by the next command: settings that lead to a job of the ledger are
that job, so nothing is trained twice.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from trainctl.config.composer import Composed, Composer
from trainctl.config.overrides import split_override, to_display, to_hydra
from trainctl.config.settings import Config
from trainctl.config.sweep_jobs import compose_jobs
from trainctl.config.validation import check_settings
from trainctl.errors import ConfigError, DirectoryTakenError, Problem
from trainctl.paths import short_path
from trainctl.registry import plugins
from trainctl.registry.constraints import Count, NonNegativeInt, show
from trainctl.runs.directory import claim_sweep
from trainctl.runs.record import now, read_record
from trainctl.sweep.checking import NO_MATTER, check_all, job_key, label, make_job, task_words
from trainctl.sweep.job import CERTAIN_TO_FAIL_AGAIN, locked_sweep
from trainctl.sweep.ledger import Job, Ledger, Row, is_sweep, next_number
from trainctl.sweep.pool import cores, places
from trainctl.sweep.pruning import PRUNED, course_of
from trainctl.sweep.run import OWN, Sweep, counted, failed_since, require_folder, where_from
from trainctl.sweep.space import Interval, Space, parse_space
from trainctl.training.display import number as shown_number
from trainctl.training.startup import collector_paused

if TYPE_CHECKING:
    from trainctl.sweep.study import Study

_FUSED = 16
_GIVE_UP_AFTER = 3


class Settings(BaseModel):
    """``hydra.sweeper`` of ``hydra/sweeper=optuna``; its file says what each means."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    trials: Count
    sampler: Literal["tpe", "random", "grid"]
    seed: NonNegativeInt
    batch: Literal["auto"] | Count
    pruner: Literal["none", "median", "hyperband"]
    params: dict[str, str | int | float | bool | None]


@dataclass(frozen=True)
class _Trial:
    """A trial that is not told yet: its number, its settings, its job."""

    number: int
    composed: Composed
    job: Job


def search(composer: Composer, words: Sequence[str], values: Mapping[str, Any], command: str) -> int:
    """Run the search that ``words`` ask for, or go on with the one in the directory that they name; returns
    the exit code, 1 where jobs failed.

    Args:
        values: of ``hydra.sweeper``.

    Raises ConfigError for what is wrong with a setting or with any part of the search space before anything
    is made, DirectoryTakenError for a directory with something else.
    """
    with collector_paused():
        settings, space, checked = _check(composer, words, values)
        place = composer.sweep_directory(words)
    launcher = composer.launcher(words)
    named = any(word.lstrip("+").startswith("hydra.sweep.dir=") for word in words)
    directory = Path(place).expanduser().absolute()
    begun: dict[str, Any] = {
        "words": list(words),
        "launcher": launcher,
        "search": {
            **settings.model_dump(),
            "asked": _what_matters(space),
            **where_from(composer),
        },
    }
    again = named and is_sweep(directory)
    if not again:
        directory = claim_sweep(directory, named=named)
    with locked_sweep(directory):
        if again:
            ledger = _begun_again(directory, begun)
        else:
            stored = plugins.load(checked.plugins)
            ledger = Ledger.begin(directory, command=command, **begun, plugins=stored)
        return _run(ledger, composer, settings, space, checked, command, trust_plugins=False)


def _begun_again(directory: Path, begun: Mapping[str, Any]) -> Ledger:
    """The ledger of a search that is asked for again. Raises DirectoryTakenError for that of another."""
    ledger = Ledger(directory)
    if (ledger.values.get("search") or {}).get("asked") != begun["search"]["asked"]:
        raise DirectoryTakenError(
            f"{directory} holds another sweep ({ledger.values.get('command')})",
            "name another directory with hydra.sweep.dir=DIR, or leave it out for an automatic one",
        )
    # More trials, another sampler: what was found so far serves them, too.
    ledger.values.update(begun)
    return ledger


def resume_search(ledger: Ledger, *, command: str, trust_plugins: bool) -> int:
    """Carry the search of ``ledger`` to its last trial; returns the exit code.

    Raises UnsafeInputError for plugin files that have changed, ConfigError where its configs are no longer
    what they were.
    """
    stored = ledger.values.get("plugins") or []
    if not trust_plugins:
        plugins.refuse_changed([entry["name"] for entry in stored], stored)
    known = ledger.values["search"]
    if stored:
        require_folder(ledger, known, "its plugins are those of")
    with collector_paused():
        composer = Composer(known["config_dir"], known["config_name"])
        words = ledger.values["words"]
        _, values = composer.sweeper(words)
        settings, space, checked = _check(composer, words, values)
    return _run(ledger, composer, settings, space, checked, command, trust_plugins=trust_plugins)


def _check(
    composer: Composer, words: Sequence[str], values: Mapping[str, Any]
) -> tuple[Settings, Space, Config]:
    """The settings of the search, its space, and the settings of one of its jobs. Raises ConfigError."""
    if find_spec("optuna") is None:
        raise ConfigError(
            "hydra/sweeper=optuna: the package optuna is not installed", "pip install 'trainctl[search]'"
        )
    settings = check_settings(Settings, "hydra.sweeper", values)
    given = {split_override(word)[1] for word in words}
    from_file = [to_hydra(f"{key}={show(value)}", sweep=True) for key, value in settings.params.items()]
    from_file = [word for word in from_file if split_override(word)[1] not in given]
    space = parse_space(composer.parse([*from_file, *words]))
    if settings.sampler == "grid" and math.isinf(space.size):
        endless = next(key for key, domain in space.domains.items() if math.isinf(domain.size))
        raise ConfigError(
            f"hydra.sweeper.sampler=grid: {endless.lstrip('+')} is any number of an interval",
            "give it a choice(1e-3,1e-2) or a range(0,10,2), or use tpe or random",
        )
    try:
        return settings, space, check_all(composer, list(space.corners())).configs[0]
    except ConfigError as error:
        raise ConfigError([_of_whole_numbers(problem, space) for problem in error.problems]) from error


def _of_whole_numbers(problem: Problem, space: Space) -> Problem:
    """Of a setting that takes whole numbers and was given an interval, how that is written."""
    for key, domain in space.domains.items():
        name = key.lstrip("+")
        if not problem.message.startswith(f"{name}=") or "whole number" not in problem.message:
            continue
        if isinstance(domain, Interval) and not domain.whole:
            written = f"interval({domain.low:g},{domain.high:g})"
            return Problem(problem.message, f"whole numbers are {name}='int({written})'")
    return problem


def _what_matters(space: Space) -> list[str]:
    """What makes one search another one than the next: the words that determine results, and the space."""
    keys = iter(f"{key}={domain}" for key, domain in space.domains.items())
    words = [next(keys) if word is None else word for word in space.words]
    return sorted(
        word for word in task_words(words) if split_override(word)[1].partition(".")[0] not in NO_MATTER
    )


def _run(
    ledger: Ledger,
    composer: Composer,
    settings: Settings,
    space: Space,
    config: Config,
    command: str,
    *,
    trust_plugins: bool,
) -> int:
    jobs = ledger.jobs()
    _check_unchanged(ledger, composer, jobs)
    current = Search(
        ledger,
        jobs,
        [config] * len(jobs),
        command,
        str(ledger.values["launcher"]),
        trust_plugins=trust_plugins,
        settings=settings,
        space=space,
        config=config,
    )
    return current.run(composer, ledger.values["words"])


def _check_unchanged(ledger: Ledger, composer: Composer, jobs: Sequence[Job]) -> None:
    """Raise ConfigError where the same words no longer mean what they did: trials would be trained twice."""
    if not jobs:
        return
    (now,) = compose_jobs(composer, [jobs[0].words])
    if isinstance(now, ConfigError) or job_key(now) != jobs[0].key:
        raise ConfigError(
            f"{ledger.directory}: its words no longer mean what they meant when it was begun",
            f"go on from {ledger.values['search']['folder']}, with the conf of then, or start another search",
        )


@dataclass(kw_only=True)
class Search(Sweep):
    """A search that is being run.

    Attributes:
        settings: of the search.
        space: what it chooses from.
        config: settings of one of its jobs; what holds for all of them is read from these.
    """

    settings: Settings
    space: Space
    config: Config
    noun = "search"
    _untold: int = 0
    _tried: set[int] = field(default_factory=set)
    _refused: list[str] = field(default_factory=list)

    def asked(self) -> str:
        return f"{self.settings.trials} trials"

    def begun(self, rows: Sequence[Row]) -> str:
        diverged = sum(map(_has_diverged, rows))
        states = [row.state for row in rows]
        counts = {
            "done already": states.count("done"),
            "diverged": diverged,
            "to carry on": states.count("interrupted"),
            "to try again": states.count("failed") - diverged,
        }
        return counted(counts)

    def to_carry_on(self, unfinished: int) -> int:
        return self.unasked + self._untold

    def work(self, left: Sequence[Job], composer: Composer | None, words: Sequence[str]) -> None:
        assert composer is not None
        from trainctl.sweep.study import Study

        if self.settings.pruner != "none" and self.launcher == "fused":
            print(f"hydra.sweeper.pruner={self.settings.pruner}: jobs that train as one model are not pruned")
        study = Study(self.ledger.directory, self.space, self.settings.sampler, self.settings.seed)
        self.ledger.update()
        size = self._batch_size()
        try:
            while trials := self._next(study, composer, size):
                began = now()
                self._launch_all(trials, composer, words)
                for trial in trials:
                    self._tell(study, trial)
                self._say(study)
                if self.config.sweep.fail_fast and failed_since(self.ledger, self.jobs, began):
                    break
        finally:
            untold = study.open_numbers()
            self._untold, self.unasked = len(untold), self._unasked(study)
            study.close()

    # ------------------------------------------------------------------- asking

    def _batch_size(self) -> int:
        if self.settings.batch != "auto":
            return self.settings.batch
        if self.launcher == "fused":
            return _FUSED
        if self.launcher == "basic":
            return 1
        if self.launcher not in OWN:
            return cores()
        return places([self.config], self.settings.trials).count

    def _unasked(self, study: Study) -> int:
        """Trials still to be asked for; none when every combination has been a job."""
        if len(self.jobs) >= self.space.size:
            return 0
        most = min(self.settings.trials, self.space.size if self.settings.sampler == "grid" else math.inf)
        return max(0, int(most) - study.count())

    def _next(self, study: Study, composer: Composer, size: int) -> list[_Trial]:
        """The next batch: first those that an earlier command has left, then new ones."""
        with collector_paused():
            while True:
                asked = {
                    number: values for number, values in study.open().items() if number not in self._tried
                }
                asked = dict(list(asked.items())[:size])
                for _ in range(min(size - len(asked), self._unasked(study))):
                    number, values = study.ask()
                    asked[number] = values
                if not asked:
                    return []
                # Where none of them can be composed there may be others.
                if trials := self._enter(study, asked, composer):
                    return trials

    def _enter(
        self, study: Study, asked: Mapping[int, Mapping[str, Any]], composer: Composer
    ) -> list[_Trial]:
        """The trials with their jobs; those that are new are appended to the ledger."""
        known = {job.key: job for job in self.jobs}
        added: list[Job] = []
        trials = []
        composed_ones = compose_jobs(composer, [self.space.job(values) for values in asked.values()])
        for (number, values), composed in zip(asked.items(), composed_ones, strict=True):
            name = label(self.space.chosen(values), ())
            if isinstance(composed, ConfigError):
                print(f"trial {number} left out: {name} ({composed})")
                study.note(number, reason=str(composed))
                study.tell(number, None)
                continue
            key = job_key(composed)
            if key in known:
                index = next(index for index, each in enumerate(self.jobs) if each.key == key)
                self.configs[index] = composed.config
            else:
                known[key] = make_job(composed, key, next_number(self.jobs), name)
                added.append(known[key])
                self.jobs.append(known[key])
                self.configs.append(composed.config)
            trials.append(_Trial(number, composed, known[key]))
        self.ledger.add(added)
        return trials

    def _launch_all(self, trials: Sequence[_Trial], composer: Composer, words: Sequence[str]) -> None:
        left = {}
        for trial in trials:
            row = self.ledger.row(trial.job)
            if row.state == "done" or _has_diverged(row) or trial.job.number in left:
                print(f"trial {trial.number}: {trial.job.label} is job {trial.job.number}, not trained again")
            else:
                left[trial.job.number] = trial.job
        if left:
            self.launch(list(left.values()), composer, words)

    # ------------------------------------------------------------------- telling

    def _tell(self, study: Study, trial: _Trial) -> None:
        """Tell how a trial went. One whose job can still succeed stays open, for the next command."""
        self._tried.add(trial.number)
        row, directory = self.ledger.row(trial.job), self.ledger.directory_of(trial.job)
        study.note(trial.number, job=trial.job.number)
        if row.state != "done":
            if _has_diverged(row):
                study.note(trial.number, reason=row.reason)
                study.tell(trial.number, None)
            elif row.state == "failed" and row.exit_code in CERTAIN_TO_FAIL_AGAIN:
                self._refuse(study, row.reason or "")
            return
        record = read_record(directory)
        monitor = record.get("monitor") or {}
        name, lower = str(monitor.get("name")), bool(monitor.get("lower_is_better"))
        value = _value(record, name)
        if value is None:
            study.note(trial.number, reason=f"{name} was never computed")
            study.tell(trial.number, None)
            self._refuse(study, f"{name} was never computed (dataset.val=0?)")
            return
        pruned = (row.reason or "").startswith(PRUNED)
        study.note(trial.number, **{name: value})
        course = course_of(directory, name, lower)
        study.tell(trial.number, value if lower else -value, course.items(), pruned=pruned)

    def _refuse(self, study: Study, reason: str) -> None:
        """Raise ConfigError where none has succeeded and one after another fails for the same reason."""
        self._refused.append(reason)
        if self._refused.count(reason) >= _GIVE_UP_AFTER and not study.succeeded():
            raise ConfigError(
                f"{_GIVE_UP_AFTER} jobs of the search, and none is of use: {reason}",
                f"put that right, then go on: trainctl resume {short_path(self.ledger.directory)}",
            )

    # ------------------------------------------------------------------- showing

    def _say(self, study: Study) -> None:
        """How far the search is."""
        if self.config.display.mode == "none":
            return
        best = self._best()
        found = "" if best is None else f", best {best[1]} {shown_number(best[2])} (job {best[0].number})"
        asked = study.count() - len(study.open_numbers())
        print(f"{asked} of {self.settings.trials} trials{found}", flush=True)

    def _best(self) -> tuple[Job, str, float] | None:
        """The best job that was trained to its end, the monitored value's name, and the value."""
        found: list[tuple[float, Job, str, float]] = []
        for job in self.jobs:
            row = self.ledger.row(job)
            if row.state != "done" or (row.reason or "").startswith(PRUNED):
                continue
            record = read_record(self.ledger.directory_of(job))
            monitor = record.get("monitor") or {}
            name = str(monitor.get("name"))
            value = _value(record, name)
            if value is not None:
                found.append((value if monitor.get("lower_is_better") else -value, job, name, value))
        if not found:
            return None
        _, job, name, value = min(found, key=lambda each: (each[0], each[1].number))
        return job, name, value

    def close(self) -> None:
        if self.unasked == 0 and len(self.jobs) >= self.space.size and len(self.jobs) < self.settings.trials:
            print(f"every combination was tried: {len(self.jobs)}")
        best = self._best()
        if best is not None:
            job, name, value = best
            options = self.ledger.values["search"]
            given = [] if options["config_dir"] is None else ["--config-dir", options["config_dir"]]
            given += [] if options["config_name"] == "config" else ["--config-name", options["config_name"]]
            words = [word for word in job.words if word != "pictures=false"]  # of a sweep only
            command = shlex.join(["trainctl", *given, *map(to_display, words)])
            print(f"best: job {job.number}, {name} {shown_number(value)}; again with:\n  {command}")


def _has_diverged(row: Row) -> bool:
    """Whether a job's settings are why it failed: not tried again."""
    return row.state == "failed" and row.exit_code == 6


def _value(record: Mapping[str, Any], name: str) -> float | None:
    value = (record.get("best") or {}).get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
