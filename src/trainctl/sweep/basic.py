"""A sweep through Hydra's own sweeper and launcher: every job checked first, each in its own directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trainctl import rundir
from trainctl.compose import Composed, Composer, stored_files
from trainctl.errors import ConfigError, Problem, TrainctlError
from trainctl.interrupts import Stopped
from trainctl.ui.errors import show_error
from trainctl.words import shown

log = logging.getLogger("trainctl")


def check_jobs(composer: Composer, words: Sequence[str]) -> dict[tuple[str, ...], Composed]:
    """Compose and check every job before the first starts. Raises ConfigError with all problems.

    A problem that several jobs share is reported once, with the number of jobs.
    """
    jobs: dict[tuple[str, ...], Composed] = {}
    problems: dict[Problem, int] = {}
    all_jobs = composer.jobs(words)
    for job in all_jobs:
        try:
            jobs[_task_words(job)] = composer.compose(job)
        except ConfigError as error:
            for problem in error.problems:
                problems[problem] = problems.get(problem, 0) + 1
    if problems:
        raise ConfigError(
            [
                Problem(f"{problem.message} ({count} of {len(all_jobs)} jobs)", problem.remedy)
                for problem, count in problems.items()
            ]
        )
    return jobs


def _task_words(job: Sequence[str]) -> tuple[str, ...]:
    """The words that Hydra hands to the task: all but its own."""
    return tuple(word for word in job if not word.lstrip("+~").startswith("hydra"))


class Job:
    """The task that Hydra's launcher calls once a job: trains it, and keeps what came of it.

    A failed job is a row of the table, not the end of the sweep.
    """

    def __init__(
        self, jobs: dict[tuple[str, ...], Composed], command: str, train: Callable[..., dict[str, Any]]
    ) -> None:
        self._jobs, self._command, self._train = jobs, command, train
        self.rows: list[tuple[tuple[str, ...], Path, dict[str, Any]]] = []

    def label(self, words: Sequence[str]) -> str:
        """What makes this job different from the others."""
        common = set.intersection(*map(set, self._jobs)) if len(self._jobs) > 1 else set()
        return " ".join(shown(word) for word in words if word not in common) or "the default config"

    def __call__(self, config: DictConfig) -> None:
        from trainctl.commands.train import Request

        hydra = HydraConfig.get()
        words = tuple(hydra.overrides.task)
        composed = self._jobs[words]
        directory = Path(hydra.runtime.output_dir)
        print(f"job {len(self.rows) + 1}/{len(self._jobs)}: {self.label(words)}", flush=True)
        try:
            directory = rundir.claim(directory, named=True)
            request = Request(
                composed.config, stored_files(composed), directory, composed.notices, self._command
            )
            values = self._train(request)
        except TrainctlError as error:
            if error.status in ("interrupted", "terminated"):
                raise Stopped(error) from error
            show_error(error)
            values = {"status": "failed", "exit_code": error.exit_code, "reason": str(error)}
        except Exception as error:
            log.exception("a job failed")
            values = {"status": "failed", "exit_code": 1, "reason": f"{type(error).__name__}: {error}"}
            show_error(TrainctlError(values["reason"], "TRAINCTL_DEBUG=1 shows the traceback"))
        self.rows.append((words, directory, values))
