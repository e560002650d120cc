"""Hydra's composition, with trainctl's rules around it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, run_job
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainctl.config.hydra_errors import explain_override, explain_value
from trainctl.config.hydra_internals import BasicSweeper, Callbacks, ConfigSearchPathImpl, Hydra
from trainctl.config.overrides import is_component_argument, repeated, split_override, to_hydra
from trainctl.config.safety import refuse_nested_files, refuse_unsafe, refuse_unsafe_overrides
from trainctl.config.secrets import hide_written
from trainctl.config.settings import Config
from trainctl.config.sources import TrainctlSearchPath, register_search_path
from trainctl.config.unused_arguments import drop_unused_arguments
from trainctl.config.validation import check
from trainctl.config.values import first_line
from trainctl.errors import ConfigError, Problem, did_you_mean, signal_behind
from trainctl.paths import conf_directory, user_conf
from trainctl.registry import COMPONENTS, TRACKERS, plugins
from trainctl.runs.secrets import masked

T = TypeVar("T")
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)
_MOST_VALUES = 100_000
# Hydra raises a plain ValueError for a group that is given null or a number, an AttributeError for a file
# that holds a list; the rest is what a broken or circular file gives.
_LOADING_ERRORS = (*COMPOSITION_ERRORS, ValueError, YAMLError, RecursionError, AttributeError, TypeError)


@dataclass(frozen=True)
class Composed:
    """A composed and checked config.

    Attributes:
        config: the checked run settings.
        tree: the config as composed, interpolations kept, without Hydra's own node.
        full: the same with Hydra's node.
        notices: the arguments that were dropped, and the options that come from the user's own conf.
        overrides: the overrides it was composed from.
    """

    config: Config
    tree: DictConfig
    full: DictConfig
    notices: tuple[str, ...]
    overrides: tuple[str, ...]


class Composer:
    """Composes configs from one search path.

    Args:
        config_dir: an additional folder of options.
        config_name: the primary config.
    """

    def __init__(self, config_dir: str | None = None, config_name: str | None = None) -> None:
        register_search_path()
        self.config_name = config_name or "config"
        self.config_dir = config_dir
        search_path = ConfigSearchPathImpl()
        search_path.append("hydra", "pkg://hydra.conf")
        search_path.append("main", f"file://{conf_directory()}")
        TrainctlSearchPath().manipulate_search_path(search_path)
        if config_dir is not None:
            if not config_dir or not Path(config_dir).is_dir():
                raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
            search_path.append("command-line", f"file://{Path(config_dir).resolve()}")
        search_path.append("schema", "structured://")
        GlobalHydra.instance().clear()
        self.hydra = Hydra.create_main_hydra2(task_name="trainctl", config_search_path=search_path)
        self.loader = self.hydra.config_loader
        self._loaded: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Compose one run, import the plugins it names, and check it.

        Raises ConfigError with every problem, UnsafeInputError for ``_target_`` and its kin.
        """
        full, problems, notices = self.compose_tree(overrides)
        tree = without_hydra(full)
        for key, reference in hide_written(OmegaConf.to_container(tree, resolve=False)).items():
            OmegaConf.update(tree, key, reference)
        try:
            config = check_tree(tree)
        except ConfigError as error:
            raise ConfigError([*problems, *error.problems]) from error
        if problems:
            raise ConfigError(problems)
        notices = [*repeated(overrides), *map(masked, notices), *self._supplied_by_user(full)]
        return Composed(config, tree, full, tuple(notices), tuple(overrides))

    def compose_tree(self, overrides: Sequence[str]) -> tuple[DictConfig, list[Problem], list[str]]:
        """Compose, and drop the arguments of components that are not chosen.

        Returns the config with Hydra's node, the problems of overrides that had to be left out, and a notice
        for each argument dropped. Raises ConfigError when nothing can be composed.
        """
        parts = [(override, *split_override(override)[1:]) for override in overrides]
        listed = [override for override, key, value in parts if key in COMPONENTS and value[:1] in ("[", "{")]
        usable = [override for override in overrides if override not in listed]
        problems = [
            Problem(f"{override}: one option can be chosen", "to sweep over several add -m")
            for override in listed
        ]
        full = self._compose_usable(usable, problems)
        if full is None:
            raise ConfigError(problems)
        refuse_unsafe(full)
        _refuse_ignored(full, usable)
        problems += _unchosen_trackers(full, usable)
        try:
            notices = drop_unused_arguments(full, usable, self._load_once, self._load_option)
        except _LOADING_ERRORS as error:
            raise ConfigError([*problems, explain_override("", error)]) from error
        return full, problems, notices

    def jobs(self, overrides: Sequence[str]) -> list[list[str]]:
        """The overrides of each job of a sweep, in order. Raises ConfigError for what cannot be parsed."""
        parsed = self.parse(overrides)
        for override in parsed:
            if override.is_discrete_sweep() and not any(True for _ in override.sweep_string_iterator()):
                raise ConfigError(
                    f"{str(override.input_line).lstrip('+')}: gives no value",
                    "glob goes with the names of options: optim=glob(*)",
                )
        try:
            batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        except HydraException as error:
            raise ConfigError(
                first_line(error),
                "give lists, all combinations are run: lr=1e-2,1e-3; intervals need hydra/sweeper=optuna",
            ) from error
        return [list(job) for batch in batches for job in batch]

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """The overrides, parsed by Hydra's grammar. Raises ConfigError with each that is invalid."""
        parser = OverridesParser.create(config_loader=self.loader)
        parsed: list[Override] = []
        problems = []
        for override in overrides:
            try:
                parsed += parser.parse_overrides([override])
            except HydraException as error:
                problems.append(explain_override(override, error))
            else:
                if (count := _in_range(parsed[-1])) > _MOST_VALUES:
                    what = f"{override.lstrip('+')}: gives {count:.3g} values, {_MOST_VALUES} are the most"
                    problems.append(
                        Problem(what, "give a larger step, or interval(LOW,HIGH) to hydra/sweeper=optuna")
                    )
        if problems:
            raise ConfigError(problems)
        return parsed

    def run(self, composed: Composed, directory: Path, work: Callable[[], T]) -> T:
        """Call ``work`` as Hydra's job, so that callbacks and job settings apply; returns its result."""
        with read_write(composed.full.hydra):
            composed.full.hydra.run.dir = str(directory)
        callbacks = Callbacks(composed.full)
        callbacks.on_run_start(config=composed.full, config_name=self.config_name)
        job = run_job(
            hydra_context=HydraContext(config_loader=self.loader, callbacks=callbacks),
            task_function=lambda _: work(),
            config=composed.full,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
        )
        callbacks.on_run_end(config=composed.full, config_name=self.config_name, job_return=job)
        if job.status is JobStatus.FAILED:
            raise job._return_value  # job.return_value would print the error, too
        return cast(T, job.return_value)

    def sweep_directory(self, overrides: Sequence[str]) -> str:
        """The sweep directory in the config."""
        full = self._load(list(overrides), RunMode.MULTIRUN)
        refuse_unsafe(full)
        HydraConfig.instance().set_config(full)
        return str(full.hydra.sweep.dir)

    def launcher(self, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The option chosen for ``hydra/launcher`` and its settings."""
        full = self._load(list(overrides), RunMode.MULTIRUN)
        settings = cast(dict[str, Any], OmegaConf.to_container(full.hydra.launcher))
        return str(full.hydra.runtime.choices["hydra/launcher"]), settings

    def sweeper(self, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The option chosen for ``hydra/sweeper`` and its settings.

        Raises ConfigError for errors in overrides that choose one. Where anything else cannot be composed,
        the sweeper is ``basic``, whose check of every job reports all errors.
        """
        try:
            full = self._load(list(overrides), RunMode.MULTIRUN)
        except _LOADING_ERRORS:
            problems: list[Problem] = self._unknown_sweeper_keys(overrides)
            if not problems and any(split_override(override)[1] == "hydra/sweeper" for override in overrides):
                self._compose_usable(list(overrides), problems, RunMode.MULTIRUN)
            if problems:
                raise ConfigError(problems) from None
            return "basic", {}
        refuse_unsafe(full)
        settings = cast(dict[str, Any], OmegaConf.to_container(full.hydra.sweeper, resolve=True))
        return str(full.hydra.runtime.choices["hydra/sweeper"]), settings

    def _unknown_sweeper_keys(self, overrides: Sequence[str]) -> list[Problem]:
        """A problem for each key of ``hydra.sweeper`` that the chosen sweeper does not have."""
        option = [override for override in overrides if split_override(override)[1] == "hydra/sweeper"]
        problems = []
        with contextlib.suppress(*_LOADING_ERRORS):
            known = [str(key) for key in self._load(option).hydra.sweeper if key != "_target_"]
            for override in overrides:
                group, _, key = split_override(override)[1].rpartition(".")
                if group == "hydra.sweeper" and key not in known:
                    remedy = did_you_mean(key, known, f"{group}.")
                    problems.append(
                        Problem(
                            f"{group}.{key}: there is no such key", f"{remedy}there are: {', '.join(known)}"
                        )
                    )
        return problems

    def instantiate_launcher(
        self, overrides: Sequence[str], directory: Path, task: Callable[[DictConfig], Any]
    ) -> Launcher:
        """Hydra's launcher for a sweep into ``directory``; it calls ``task`` for each job."""
        try:
            full = self._load([*overrides, to_hydra(f"hydra.sweep.dir={directory}")], RunMode.MULTIRUN)
            context = HydraContext(config_loader=self.loader, callbacks=Callbacks(full))
            return Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=task, config=full
            )
        except _LOADING_ERRORS as error:
            raise ConfigError(first_line(error)) from error

    def _load(self, overrides: list[str], run_mode: RunMode = RunMode.RUN) -> DictConfig:
        refuse_unsafe_overrides(overrides)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra's advice to its programmers
            try:
                return self.loader.load_configuration(
                    config_name=self.config_name, overrides=overrides, run_mode=run_mode
                )
            except _LOADING_ERRORS as error:
                if (told := signal_behind(error)) is not None:
                    raise told from None
                if isinstance(error, RecursionError):
                    refuse_nested_files()
                raise

    def _compose_usable(
        self, overrides: list[str], problems: list[Problem], run_mode: RunMode = RunMode.RUN
    ) -> DictConfig | None:
        """Compose; an override that fails is reported and removed from ``overrides``, to find the next."""
        while True:
            try:
                return self._load(overrides, run_mode)
            except _LOADING_ERRORS as error:
                culprit = self._blame(overrides, error, run_mode)
                problems.append(explain_override(culprit or "", error))
                if culprit is None:
                    return None
                overrides[:] = [other for other in overrides if not _falls_with(other, culprit)]

    def _blame(self, overrides: list[str], error: Exception, run_mode: RunMode) -> str | None:
        """The override that causes the error: without it, the error does not occur."""
        for override in overrides:
            try:
                self._load([other for other in overrides if other != override], run_mode)
            except _LOADING_ERRORS as other_error:
                if str(other_error) == str(error):
                    continue
            return override
        return None

    def _load_once(self, overrides: list[str]) -> DictConfig:
        """Like :meth:`_load`, cached by overrides: the result is shared and must not be changed."""
        key = tuple(overrides)
        if key not in self._loaded:
            self._loaded[key] = self._load(overrides)
        return self._loaded[key]

    def _load_option(self, group: str, option: str) -> DictConfig | None:
        """The content of an option's own file, without the files that are merged over it."""
        loaded = self.loader.load_configuration(f"{group}/{option}", [], run_mode=RunMode.RUN)
        node = loaded.get(group)
        return node if isinstance(node, DictConfig) else None

    def _supplied_by_user(self, full: DictConfig) -> list[str]:
        if (folder := user_conf()) is None:
            return []
        choices = [f"{group}/{choice}" for group, choice in full.hydra.runtime.choices.items() if choice]
        # For a group with several options Hydra does not report the choices.
        choices += [f"{TRACKERS.group}/{label}" for label in full.get(TRACKERS.group) or ()]
        found = [path for path in dict.fromkeys([*choices, "local"]) if (folder / f"{path}.yaml").is_file()]
        return [f"from ./conf: {', '.join(found)}"] if found else []


def _in_range(override: Override) -> float:
    """How many values a ``range`` has: each is written down before the first is tried. 0 for all others."""
    value = override.value()
    if not isinstance(value, RangeSweep) or not value.step:
        return 0
    return (float(value.stop or 0) - float(value.start or 0)) / float(value.step)


_WITHOUT_EFFECT = (
    *("hydra.verbose", "hydra.runtime.", "hydra.job.id", "hydra.job.num", "hydra.job.name"),
    *("hydra.job.config_name", "hydra.job.override_dirname", "hydra.job.env_copy"),
    *("hydra.mode", "hydra.output_subdir", "hydra.overrides", "hydra.env."),
)


def _refuse_ignored(full: DictConfig, overrides: Sequence[str]) -> None:
    """Raise ConfigError for settings of Hydra that would have no effect."""
    folders = [str(full.hydra[mode]._get_node("dir")._value()) for mode in ("run", "sweep")]
    for key in [split_override(override)[1] for override in overrides]:
        if key.startswith(_WITHOUT_EFFECT) and not any(f"${{{key}}}" in folder for folder in folders):
            raise ConfigError(f"{key}: has no effect", "leave it out; name=NAME names a run")
        if key.startswith("hydra.") and key.split(".")[1] not in HydraConf.__dataclass_fields__:
            raise ConfigError(f"{key}: there is no such key", "see the keys of Hydra: --cfg hydra")
    if full.hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true: a run stays in the folder where it was started",
            "leave it out; hydra.run.dir=DIR chooses the directory of the results",
        )
    subdir = str(full.hydra.sweep._get_node("subdir")._value())
    # Hydra's launchers are given the number itself.
    if subdir != "${hydra.job.num}" and not subdir.isdecimal():
        raise ConfigError(
            "hydra.sweep.subdir: the jobs of a sweep are in the folders 0, 1, 2 …",
            "leave it out; trainctl compare SWEEP shows the settings of each",
        )


def _falls_with(override: str, culprit: str) -> bool:
    """Whether ``override`` is ``culprit``, or means something only with what that would have chosen."""
    key, group = split_override(override)[1], split_override(culprit)[1]
    means = is_component_argument(key) if group == "experiment" else key.startswith(f"{group}.")
    return override == culprit or means


def _unchosen_trackers(full: DictConfig, overrides: Sequence[str]) -> list[Problem]:
    """A problem for each override of an argument of a tracker that is not chosen. A file may set it."""
    problems = []
    for override in overrides:
        group, _, rest = split_override(override)[1].partition(".")
        label, _, argument = rest.partition(".")
        node = OmegaConf.select(full, f"{TRACKERS.group}.{label}") if group == TRACKERS.group else None
        if argument and isinstance(node, DictConfig) and "name" not in node and label in TRACKERS.names():
            problems.append(
                Problem(
                    f"{override.lstrip('+')}: this tracker is not chosen",
                    f"add tracker={label}; several are a list: tracker=[csv,tensorboard]",
                )
            )
    return problems


def without_hydra(full: DictConfig) -> DictConfig:
    tree = OmegaConf.masked_copy(full, [str(key) for key in full if key != "hydra"])
    assert isinstance(tree, DictConfig)
    return tree


def run_directory(composed: Composed) -> str:
    """The run directory in the config."""
    HydraConfig.instance().set_config(composed.full)
    return str(composed.full.hydra.run.dir)


def check_tree(tree: DictConfig) -> Config:
    """Resolve a composed tree, import the plugins it names, and check it."""
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_value(error, tree)) from error
    assert isinstance(values, dict)
    named = values.get("plugins")
    plugins.load([str(name) for name in named] if isinstance(named, list) else [])
    return check({str(key): value for key, value in values.items()})
