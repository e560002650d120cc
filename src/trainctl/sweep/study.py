"""The memory of a search: which trials were asked for, and what was told of each. optuna, and nothing else.

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
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from trainctl.errors import ConfigError
from trainctl.runs import files
from trainctl.sweep.space import Choice, Domain, Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

FILE = "search.jsonl"
_NAME = "search"


class Study:
    """The search in ``directory``: asks for settings and is told how good they were.

    optuna is told a loss: values of which the highest is best, with their sign turned round, because which it
    is can be known only after the first run.

    Args:
        directory: the sweep's; nobody else may have it open.
        space: what to choose from.
        sampler: tpe, random or grid.
        seed: of the sampler.

    Raises ConfigError for a damaged file, OSError.
    """

    def __init__(self, directory: Path, space: Space, sampler: str, seed: int) -> None:
        self._space, self._sampler, self._seed = space, sampler, seed
        self._distributions = {key: _distribution(domain) for key, domain in space.domains.items()}
        self._journal = _Journal(directory / FILE)
        try:
            storage = JournalStorage(self._journal)
            begin = optuna.load_study if storage.get_all_studies() else optuna.create_study
            self._study = begin(storage=storage, study_name=_NAME)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{directory / FILE} is damaged: {error}", "start another search") from error

    def close(self) -> None:
        """Close the file."""
        self._journal.close()

    def count(self) -> int:
        """How many trials there are."""
        return len(self._study.get_trials(deepcopy=False))

    def succeeded(self) -> bool:
        """Whether any trial has a value."""
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def open_numbers(self) -> list[int]:
        """The trials that were asked for and never told."""
        asked = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial.number for trial in asked]

    def open(self) -> dict[int, Mapping[str, Any]]:
        """The same with their parameters, by number."""
        asked = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return {trial.number: self._settled(self._resumed(trial)) for trial in asked}

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        """One more trial: its number and its parameters."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        number = self.count() - len(waiting)
        if self._sampler == "grid" and not waiting:
            combinations = self._space.combinations()
            self._study.enqueue_trial(combinations[number % len(combinations)])
        self._study.sampler = self._made_for(number)
        trial = self._study.ask()
        return trial.number, self._settled(trial)

    def note(self, number: int, **values: Any) -> None:
        """Write something beside a trial, for people."""
        trial = self._study.get_trials(deepcopy=False)[number]
        for key, value in values.items():
            self._resumed(trial).set_user_attr(key, value)

    def tell(
        self,
        number: int,
        value: float | None,
        course: Iterable[tuple[int, float]] = (),
        *,
        pruned: bool = False,
    ) -> None:
        """How a trial went.

        Args:
            number: the trial's.
            value: of its best evaluation, a loss; None where it failed.
            course: epoch and value of each evaluation.
            pruned: whether it was stopped early.
        """
        frozen = self._study.get_trials(deepcopy=False)[number]
        trial = self._resumed(frozen)
        for epoch, each in course:
            if epoch not in frozen.intermediate_values:
                trial.report(each, epoch)
        if value is None:
            self._study.tell(number, state=TrialState.FAIL)
        elif pruned:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, value)

    def _resumed(self, frozen: FrozenTrial) -> Trial:
        self._study.sampler = self._made_for(frozen.number)
        return Trial(self._study, frozen._trial_id)

    def _settled(self, trial: Trial) -> Mapping[str, Any]:
        """Every parameter of a trial: one that it has stays, as after a kill in the midst of asking."""
        return {key: _suggest(trial, key, each) for key, each in self._distributions.items()}

    def _made_for(self, number: int) -> BaseSampler:
        """A sampler whose randomness depends on the seed and the trial: the same after a kill, and never that
        of an earlier trial."""
        seed = random.Random(f"{self._seed} {number}").getrandbits(31)
        if self._sampler != "tpe":
            return RandomSampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Those that are still running count as bad: trials of one batch must not be alike.
            return TPESampler(seed=seed, constant_liar=True)


def is_hopeless(
    pruner: str, most_epochs: int | None, others: Iterable[Course], number: int, own: Mapping[int, float]
) -> bool:
    """Whether a job should be stopped, judged by ``pruner`` beside the ``others``.

    Args:
        pruner: none, median or hyperband.
        most_epochs: that a job trains; None where that is not known.
        others: the other jobs' courses.
        number: the job's own.
        own: its loss after each epoch so far.
    """
    study = optuna.create_study(study_name=_NAME, pruner=_pruner(pruner, most_epochs))
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


class Course:
    """How a job went so far: its number, its loss after each epoch, whether it was trained to its end."""

    def __init__(self, number: int, values: Mapping[int, float], *, finished: bool) -> None:
        self.number, self.values, self.finished = number, values, finished


def _pruner(name: str, most_epochs: int | None) -> BasePruner:
    if name == "median":
        return MedianPruner()
    if name == "hyperband":
        return HyperbandPruner(max_resource="auto" if most_epochs is None else most_epochs)
    return NopPruner()


def _distribution(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        step = 1 if domain.step is None else int(domain.step)
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log, step=step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _suggest(trial: Trial, key: str, each: BaseDistribution) -> Any:
    if isinstance(each, CategoricalDistribution):
        return trial.suggest_categorical(key, each.choices)
    if isinstance(each, IntDistribution):
        return trial.suggest_int(key, each.low, each.high, step=each.step, log=each.log)
    assert isinstance(each, FloatDistribution)
    return trial.suggest_float(key, each.low, each.high, step=each.step, log=each.log)


class _Journal(BaseJournalBackend):
    """optuna's journal on a file of whole lines, synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else None
        self._log = files.Log(path, whole)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        lines = self._path.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._log.write(b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs))
        self._log.sync()

    def close(self) -> None:
        self._log.close()
