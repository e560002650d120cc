"""Compose and check all jobs of a sweep before the first one starts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf

from trainctl.config.composer import Composed, Composer
from trainctl.config.overrides import repeated, split_override, to_display
from trainctl.config.settings import Config
from trainctl.config.stored_config import stored_files
from trainctl.config.sweep_jobs import compose_jobs
from trainctl.errors import ConfigError, Problem
from trainctl.registry import COMPONENTS, plugins
from trainctl.runs.secrets import masked
from trainctl.sweep.ledger import Job
from trainctl.training.interrupts import held_back

NOT_IN_KEY = ("display", "sweep", "checkpoint", "name", "tracker", "pictures", "profile", "system_metrics")
"""Top-level keys that do not change the result of a run."""
_LAST = Problem(
    "init_from=last is ambiguous in a sweep", "pass a run directory, or init_from=last on the command line"
)


@dataclass(frozen=True)
class Checked:
    """Jobs that are ready to start, numbered from 0, with a notice for each duplicate that was left out."""

    jobs: list[Job]
    configs: list[Config]
    notices: list[str]


def check_jobs(composer: Composer, words: Sequence[str]) -> Checked:
    """Compose and check every job of the sweep that ``words`` ask for."""
    checked = check_all(composer, composer.jobs(words))
    return replace(checked, notices=[*repeated(words), *checked.notices])


def check_all(composer: Composer, asked: Sequence[Sequence[str]]) -> Checked:
    """Compose and check every job. Raises ConfigError with all problems.

    A problem that several jobs share is reported once, with their number. Of jobs with the same settings only
    the first is kept.
    """
    problems: Counter[Problem] = Counter()
    found: dict[str, tuple[int, Composed]] = {}
    notices, sweep_settings = [], set()
    for number, composed in enumerate(_between_signals(compose_jobs(composer, asked))):
        if isinstance(composed, ConfigError):
            problems.update(composed.problems)
            continue
        if composed.config.init_from == "last":
            problems[_LAST] += 1
            continue
        sweep_settings.add(composed.config.sweep)
        if (key := job_key(composed)) in found:
            said = label(task_words(asked[number]))
            notices.append(f"left out: {said} has the same settings as job {found[key][0]}")
        else:
            found[key] = (number, composed)
    if problems:
        raise ConfigError(
            [
                Problem(f"{problem.message} ({count} of {len(asked)} jobs)", problem.remedy)
                for problem, count in problems.items()
            ]
        )
    if len(sweep_settings) > 1:
        raise ConfigError("sweep.jobs and sweep.fail_fast take one value for the whole sweep")
    kept = [composed for _, composed in found.values()]
    _check_names(kept)
    common = set.intersection(*(set(composed.overrides) for composed in kept)) if len(kept) > 1 else ()
    jobs = [
        make_job(composed, key, number, label(task_words(composed.overrides), common))
        for number, (key, composed) in enumerate(zip(found, kept, strict=True))
    ]
    return Checked(jobs, [composed.config for composed in kept], notices)


def _between_signals(composing: Iterator[Composed | ConfigError]) -> Iterator[Composed | ConfigError]:
    """Each job; a signal waits until the next one is there, which would be taken for wrong."""
    while True:
        with held_back():
            composed = next(composing, None)
        if composed is None:
            return
        yield composed


def make_job(composed: Composed, key: str, number: int, name: str) -> Job:
    """The ledger's job for a composed config."""
    return Job(
        key=key,
        number=number,
        words=task_words(composed.overrides),
        label=name,
        files=stored_files(composed),
        notices=composed.notices,
    )


def _check_names(jobs: Sequence[Composed]) -> None:
    names = Counter(job.config.name for job in jobs if job.config.name is not None)
    for name, count in names.most_common(1):
        if count > 1:
            raise ConfigError(f"name={name}: several jobs would have this name", _other_names(jobs))


def _other_names(jobs: Sequence[Composed]) -> str:
    """What to type instead of a name that several jobs share: one of all values in which they differ."""
    words: dict[str, set[str]] = {}
    for word in (word for job in jobs for word in task_words(job.overrides)):
        words.setdefault(split_override(word)[1], set()).add(word)
    varying = [key for key, values in words.items() if len(values) > 1 and key != "name"]
    keys = [f"{key}.name" if key in COMPONENTS else key for key in varying]
    values = [[OmegaConf.select(job.tree, key) for key in keys] for job in jobs]
    names = ["_".join(map(str, each)) for each in values]
    if len(set(names)) < len(names) or any("/" in name or not name.isprintable() for name in names):
        return "leave it out: jobs are numbered"
    return f"make it differ: name='run_{'_'.join(f'${{{key}}}' for key in keys)}', or leave it out"


def job_key(composed: Composed) -> str:
    """Hash of everything that determines a job's result: settings, plugins and their content."""
    values: Any = OmegaConf.to_container(composed.tree, resolve=True)
    kept = {key: value for key, value in values.items() if key not in NOT_IN_KEY}
    kept["plugins"] = [
        {"name": entry["name"], "sha256": entry["sha256"]} for entry in plugins.load(composed.config.plugins)
    ]
    written = masked(json.dumps(kept, sort_keys=True, default=str), secrets_only=True)
    return hashlib.sha256(written.encode()).hexdigest()


def label(words: Sequence[str], common: Collection[str] = ()) -> str:
    """The words that make a job different from the others, without the one that a sweep adds itself."""
    said = [word for word in words if word not in common and word.lower() != "pictures=false"]
    return " ".join(map(to_display, said)) or "the default config"


def task_words(job: Sequence[str]) -> tuple[str, ...]:
    """The words without Hydra's own."""
    return tuple(word for word in job if not word.lstrip("+~").startswith("hydra"))
