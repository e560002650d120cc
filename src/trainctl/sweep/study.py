"""The memory of a search: its trials and their results. The only importer of optuna.

It is ``search.jsonl`` in the sweep's directory, optuna's own journal format: one line an event, each synced
before the next thing happens. Not SQLite: the sweep's lock makes one process the only writer, so a journal
needs no lock of its own that a killed process could leave behind; a last line that was cut short is an event
that did not happen, and is cut off; and it needs no SQLAlchemy, which costs half a second. optuna's other
tools open it as a ``JournalFileBackend``.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import HyperbandPruner, MedianPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from trainctl.errors import ConfigError
from trainctl.runs import files, strict_json
from trainctl.sweep.space import Choice, Domain, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

FILE = "search.jsonl"
_NAME = "search"
# What optuna raises for a journal that it has not written.
_DAMAGED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


class Study:
    """The search in ``directory``: asks for settings and is told how good they were.

    optuna is told a loss: a value of which the highest is best has its sign turned round, because the
    direction is known only after the first run.

    Args:
        directory: the sweep's; no other process may have it open.
        sampler: tpe, random or grid.
        seed: of the sampler.

    Raises ConfigError for a damaged file, OSError.
    """

    def __init__(self, directory: Path, space: Space, sampler: str, seed: int) -> None:
        self._space, self._sampler, self._seed = space, sampler, seed
        self._distributions = {key: _distribution(domain) for key, domain in space.domains.items()}
        self._journal = _Journal(directory / FILE)
        self.close = self._journal.close
        try:
            storage = JournalStorage(self._journal)
            begin = optuna.load_study if storage.get_all_studies() else optuna.create_study
            self._study = begin(storage=storage, study_name=_NAME)
        except _DAMAGED as error:
            reason = str(error) or type(error).__name__
            raise ConfigError(f"{directory / FILE} is damaged: {reason}", "start another search") from error

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def count(self) -> int:
        """The number of trials."""
        return len(self._trials())

    def succeeded(self) -> bool:
        """Whether any trial has a value."""
        return bool(self._trials(TrialState.COMPLETE, TrialState.PRUNED))

    def open_numbers(self) -> list[int]:
        """The trials that were asked for and never told."""
        return [trial.number for trial in self._trials(TrialState.RUNNING)]

    def open(self) -> dict[int, Mapping[str, Any]]:
        """The same with their parameters, by number."""
        return {trial.number: self._settled(self._live(trial)) for trial in self._trials(TrialState.RUNNING)}

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """One more trial: its number and its parameters."""
        waiting = self._trials(TrialState.WAITING)
        number = self.count() - len(waiting)
        if self._sampler == "grid" and not waiting:
            combinations = self._space.combinations()
            self._study.enqueue_trial(combinations[number % len(combinations)])
        self._study.sampler = self._made_for(number)
        trial = self._study.ask()
        return trial.number, self._settled(trial)

    def note(self, number: int, **values: Any) -> None:
        """Write something beside a trial, for people."""
        trial = self._live(self._trials()[number])
        for key, value in values.items():
            trial.set_user_attr(key, value)

    def tell(
        self,
        number: int,
        value: float | None,
        course: Mapping[int, float] | None = None,
        *,
        pruned: bool = False,
    ) -> None:
        """Tell the result of a trial.

        Args:
            number: the trial's.
            value: of its best evaluation, a loss; None where it failed.
            course: the value of each evaluation, by epoch.
            pruned: whether it was stopped early.
        """
        frozen = self._trials()[number]
        trial = self._live(frozen)
        for epoch, each in (course or {}).items():
            if epoch not in frozen.intermediate_values:
                trial.report(each, epoch)
        if value is None:
            self._study.tell(number, state=TrialState.FAIL)
        elif pruned:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, value)

    def _live(self, frozen: FrozenTrial) -> Trial:
        self._study.sampler = self._made_for(frozen.number)
        return Trial(self._study, frozen._trial_id)

    def _settled(self, trial: Trial) -> Mapping[str, Any]:
        """Every parameter of a trial; a parameter that it has already stays, as after a kill while asking."""
        return {key: trial._suggest(key, each) for key, each in self._distributions.items()}

    def _made_for(self, number: int) -> BaseSampler:
        """A sampler whose randomness depends on the seed and the trial: the same after a kill, and never that
        of an earlier trial."""
        seed = random.Random(f"{self._seed} {number}").getrandbits(31)
        if self._sampler != "tpe":
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Running trials count as bad: trials of one batch must not be alike.
            return TPESampler(seed=seed, constant_liar=True)


class Course(NamedTuple):
    """The loss of a job after each epoch, and whether it was trained to its end."""

    number: int
    values: Mapping[int, float]
    finished: bool


def is_hopeless(
    pruner: str, most_epochs: int, others: Iterable[Course], number: int, own: Mapping[int, float]
) -> bool:
    """Whether to stop a job, judged by ``pruner`` (median or hyperband) beside the ``others``.

    Args:
        most_epochs: the epochs that a job trains.
        number: the job's own.
        own: its loss after each epoch so far.
    """
    by_median = pruner == "median"
    study = optuna.create_study(
        study_name=_NAME, pruner=MedianPruner() if by_median else HyperbandPruner(max_resource=most_epochs)
    )
    courses = {each.number: each for each in others}
    trials = {each: study.ask() for each in range(max([number, *courses]) + 1)}
    for course in courses.values():
        for epoch, value in course.values.items():
            trials[course.number].report(value, epoch)
            trials[course.number].should_prune()  # its place in the rungs
        if course.finished and course.values:
            study.tell(trials[course.number], min(course.values.values()))
    hopeless = False
    for epoch, value in own.items():
        trials[number].report(value, epoch)
        hopeless = bool(trials[number].should_prune())
    return hopeless


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


class _Journal(BaseJournalBackend):
    """optuna's journal on a file of whole lines, synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else None
        self._log = files.Log(path, whole)
        self.close = self._log.close

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [strict_json.parse(line) for line in lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._log.write(b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs))
        self._log.sync()
