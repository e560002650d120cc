"""Start and resume: a sweep over lists of values, or a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainctl.config.composer import Composer
from trainctl.config.overrides import quote, split_override
from trainctl.config.stored_config import parse_config, plugins_in
from trainctl.errors import ConfigError
from trainctl.paths import short_path
from trainctl.registry import plugins, trust
from trainctl.runs.bucket import is_url
from trainctl.runs.directory import find
from trainctl.sweep.checking import Checked, check_jobs
from trainctl.sweep.ledger import Job, Ledger, locked_sweep
from trainctl.sweep.reporter import Reporter
from trainctl.sweep.run import (
    LOCAL_LAUNCHERS,
    OWN_LAUNCHERS,
    Sweep,
    composed_in,
    launcher_of,
    other_sweep,
    require_folder,
    require_own,
    sweep_directory,
)
from trainctl.sweep.worker_pool import start_server
from trainctl.training.startup import collector_paused


def sweep(composer: Composer, words: Sequence[str], command: str, reporter: Reporter) -> int:
    """Run the sweep that ``words`` ask for; returns the exit code, 1 where jobs failed.

    Raises ConfigError with every problem of every job before anything is made, DirectoryTakenError for a
    directory with another sweep, InterruptedRunError or TerminatedRunError when told to stop.
    """
    words = _with_runs_found(_without_pictures(words))
    if _trains_here(words):
        start_server()  # it imports torch while the jobs are composed and checked
    sweeper, settings = composer.sweeper(words)
    if sweeper == "optuna":
        from trainctl.sweep.search import search

        return search(composer, words, settings, command, reporter)
    if sweeper != "basic":
        raise ConfigError(f"hydra/sweeper={sweeper} is not supported", "choose basic or optuna")
    with collector_paused():
        checked = check_jobs(composer, words)
        launcher, settings = launcher_of(composer, words)
    with sweep_directory(composer, words) as (directory, again):
        if again:
            ledger = Ledger(directory)
            jobs = _joined(ledger, checked)
            ledger.values.update(launcher=launcher, launcher_settings=settings)
        else:
            ledger = Ledger.begin(
                directory,
                command=command,
                words=list(words),
                launcher=launcher,
                launcher_settings=settings,
                plugins=plugins.load(checked.configs[0].plugins),
                **composed_in(composer),
            )
            trust.remember(directory, ledger.values["plugins"], "*")
            jobs = checked.jobs
            ledger.add(jobs)
        for notice in checked.notices:
            reporter.notice(notice)
        return Sweep(ledger, jobs, checked.configs, command, launcher, reporter).run(composer, words)


def _trains_here(words: Sequence[str]) -> bool:
    """Whether ``words`` choose no launcher that has processes of its own."""
    parts = (split_override(word)[1:] for word in words)
    chosen = [value for key, value in parts if key == "hydra/launcher"]
    return all(value in LOCAL_LAUNCHERS for value in chosen)


def _with_runs_found(words: Sequence[str]) -> list[str]:
    """Replace ``init_from=last``, or a run's name, by its directory: once the sweep begins, ``last`` is the
    sweep itself, and a name may come to mean another run."""
    found = []
    for word in words:
        _, key, value = split_override(word)
        names = [part.strip("'\"") for part in value.split(",")]
        if key == "init_from" and all(names) and not set(value) & set("$[](){}\\") and value != "null":
            word = f"init_from={','.join(quote(name if is_url(name) else str(find(name))) for name in names)}"
        found.append(word)
    return found


def _without_pictures(words: Sequence[str]) -> list[str]:
    """Draw pictures only if asked: two of them take longer than a small job."""
    asked = any(split_override(word)[1] == "pictures" for word in words)
    return list(words) if asked else [*words, "pictures=false"]


def _joined(ledger: Ledger, checked: Checked) -> list[Job]:
    """The jobs of a sweep that is run again in its directory; new ones are added to its ledger."""
    known = {job.key: job for job in ledger.jobs()}
    if known and not any(job.key in known for job in checked.jobs):
        raise other_sweep(ledger)
    added = [job for job in checked.jobs if job.key not in known]
    added = [replace(job, number=number) for number, job in enumerate(added, start=len(known))]
    ledger.add(added)
    every = {**known, **{job.key: job for job in added}}
    return [every[job.key] for job in checked.jobs]


def resume_sweep(directory: Path, *, command: str, trust_plugins: bool, reporter: Reporter) -> int:
    """Carry the sweep in ``directory`` to its end; returns the exit code.

    Jobs that are done stay, interrupted ones resume from their checkpoints, failed ones are tried again.
    Raises UnsafeInputError for plugin files that have changed.
    """
    with locked_sweep(directory):
        ledger = Ledger(directory)
        if ledger.values.get("search"):
            from trainctl.sweep.search import resume_search

            return resume_search(ledger, command=command, trust_plugins=trust_plugins, reporter=reporter)
        return _resume(ledger, command, trust_plugins, reporter)


def _refuse_untrusted(ledger: Ledger, jobs: Sequence[Job], trusted: Callable[[list[str]], None]) -> None:
    """Raise UnsafeInputError for the plugins of any job, or of the run it left, before one of them starts."""
    for job in jobs:
        named = plugins_in(job.files.get("config.yaml", ""), f"job {job.number}", ledger.directory)
        stored = ledger.directory_of(job) / "config.yaml"
        if stored.is_file() and not stored.is_symlink():
            named += plugins_in(
                stored.read_text(encoding="utf-8", errors="replace"), str(stored), stored.parent
            )
        trusted(named)


def _resume(ledger: Ledger, command: str, trust_plugins: bool, reporter: Reporter) -> int:
    jobs = ledger.jobs()
    if not jobs:
        raise ConfigError(
            f"{ledger.directory}: the sweep was stopped before its jobs were written",
            f"start it again: {ledger.values.get('command') or 'with the command that began it'}",
        )

    trusted = trust.checker(ledger.directory, trust_plugins=trust_plugins)
    with collector_paused():
        left = [job for job in jobs if ledger.row(job).state != "done"]
        _refuse_untrusted(ledger, left or jobs[:1], trusted)
        launcher, composer = str(ledger.values.get("launcher") or "parallel"), None
        if launcher not in OWN_LAUNCHERS:
            require_own(ledger, f"hydra/launcher={launcher}", trust_plugins=trust_plugins)
            require_folder(ledger, ledger.values, f"hydra/launcher={launcher} is configured in")
            composer = Composer(*ledger.needed("config_dir", "config_name"))
        if launcher == "ray":
            require_own(ledger, "the cluster for hydra/launcher=ray", trust_plugins=trust_plugins)
        # One config has the settings of the sweep; groups, and what each takes of a cluster, need all.
        needed = left if launcher in ("fused", "ray") else left[:1] or jobs[:1]
        configs = {
            job.number: parse_config(job.files["config.yaml"], f"job {job.number}", trusted, ledger.directory)
            for job in needed
        }
    if not left:
        reporter.notice(f"{short_path(ledger.directory)}: this sweep is finished, there is nothing to resume")
        reporter.answer(ledger.directory)
        return 0
    known = [configs.get(job.number) or next(iter(configs.values())) for job in jobs]
    current = Sweep(ledger, jobs, known, command, launcher, reporter, trust_plugins=trust_plugins)
    return current.run(composer, ledger.needed("words")[0] if composer else ())
