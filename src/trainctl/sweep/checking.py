"""All jobs of a sweep composed and checked before the first starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from trainctl.config.composer import Composed, Composer
from trainctl.config.overrides import to_display
from trainctl.config.settings import Config
from trainctl.config.stored_config import stored_files
from trainctl.config.sweep_jobs import compose_jobs
from trainctl.errors import ConfigError, Problem
from trainctl.registry import plugins
from trainctl.sweep.ledger import Job

NO_MATTER = ("display", "sweep", "checkpoint", "name", "tracker", "pictures", "profile")
"""Top-level keys that have no part in a run's result."""
_LAST = Problem(
    "init_from=last: once a sweep has begun, the last run is one of its own",
    "give the run's directory, or type init_from=last after the verb",
)


@dataclass(frozen=True)
class Checked:
    """Jobs that can start.

    Attributes:
        jobs: without duplicates, numbered from 0.
        configs: their settings.
        notices: the duplicates that were left out.
    """

    jobs: list[Job]
    configs: list[Config]
    notices: list[str]


def check_jobs(composer: Composer, words: Sequence[str]) -> Checked:
    """Compose and check every job of the sweep that ``words`` ask for."""
    return check_all(composer, composer.jobs(words))


def check_all(composer: Composer, asked: Sequence[Sequence[str]]) -> Checked:
    """Compose and check every job. Raises ConfigError with all problems.

    A problem that several jobs share is reported once, with the number of jobs. Of jobs with the same
    settings the first stays.
    """
    problems: dict[Problem, int] = {}
    found: dict[str, tuple[int, Composed]] = {}
    notices, ways = [], set()
    for number, composed in enumerate(compose_jobs(composer, asked)):
        if isinstance(composed, ConfigError):
            for problem in composed.problems:
                problems[problem] = problems.get(problem, 0) + 1
            continue
        if composed.config.init_from == "last":
            problems[_LAST] = problems.get(_LAST, 0) + 1
            continue
        ways.add(composed.config.sweep)
        if (key := job_key(composed)) in found:
            said = label(task_words(asked[number]), ("pictures=false",))
            notices.append(f"left out: {said} has the settings of job {found[key][0]}")
        else:
            found[key] = (number, composed)
    if problems:
        raise ConfigError(
            [
                Problem(f"{problem.message} ({count} of {len(asked)} jobs)", problem.remedy)
                for problem, count in problems.items()
            ]
        )
    if len(ways) > 1:
        raise ConfigError("sweep.jobs, sweep.fail_fast: one value holds for the whole sweep")
    _check_names([composed.config.name for _, composed in found.values()])
    common = _common([composed.overrides for _, composed in found.values()])
    jobs = [
        make_job(composed, key, number, label(task_words(composed.overrides), common))
        for number, (key, (_, composed)) in enumerate(found.items())
    ]
    return Checked(jobs, [composed.config for _, composed in found.values()], notices)


def make_job(composed: Composed, key: str, number: int, name: str) -> Job:
    """The job of a composed config, as the ledger has it."""
    return Job(
        key=key,
        number=number,
        words=task_words(composed.overrides),
        label=name,
        files=stored_files(composed),
        notices=composed.notices,
    )


def _check_names(names: Sequence[str | None]) -> None:
    """Raise ConfigError where several jobs have one name: it could not stand for a RUN."""
    given = [name for name in names if name is not None]
    if len(set(given)) < len(given):
        raise ConfigError(
            f"name={given[0]}: several jobs would have one name",
            "let it vary: name='run_${seed}', or leave it out",
        )


def job_key(composed: Composed) -> str:
    """Hash of everything that determines a job's result: settings, plugins and their content."""
    values: Any = OmegaConf.to_container(composed.tree, resolve=True)
    kept = {key: value for key, value in values.items() if key not in NO_MATTER}
    kept["plugins"] = [
        {"name": entry["name"], "sha256": entry["sha256"]} for entry in plugins.load(composed.config.plugins)
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def label(words: Sequence[str], common: Sequence[str]) -> str:
    """What makes a job different from the others."""
    return " ".join(to_display(word) for word in words if word not in common) or "the default config"


def _common(jobs: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(set.intersection(*map(set, jobs))) if len(jobs) > 1 else ()


def task_words(job: Sequence[str]) -> tuple[str, ...]:
    """The words that Hydra hands to the task: all but its own."""
    return tuple(word for word in job if not word.lstrip("+~").startswith("hydra"))
