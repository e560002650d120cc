"""Hydra's composition, with trainctl's rules around it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainctl.config import overrides as word_rules
from trainctl.config.explain import explain, explain_value, first_line
from trainctl.config.safety import refuse_unsafe
from trainctl.config.settings import Config, check
from trainctl.config.settle import settle
from trainctl.config.sources import TrainctlSearchPath, register_search_path
from trainctl.errors import ConfigError, Problem, nearest
from trainctl.paths import conf_directory, user_conf
from trainctl.registry import COMPONENTS, TRACKERS, plugins

T = TypeVar("T")
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)
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
        notices: what was dropped, and what the user's own conf supplied.
        overrides: the words that made it.
    """

    config: Config
    tree: DictConfig
    full: DictConfig
    notices: tuple[str, ...]
    overrides: tuple[str, ...]


class Composer:
    """Composes configs from one search path.

    Args:
        config_dir: an additional folder of options (``--config-dir``).
        config_name: the primary config; another than ``config`` only by ``--config-name``.
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

    # ---------------------------------------------------------------- composing

    def compose(self, words: Sequence[str]) -> Composed:
        """Compose one run, import the plugins it names, and check it.

        Raises ConfigError with every problem, UnsafeInputError for ``_target_`` and its kin.
        """
        full, problems, notices = self.settle(words)
        tree = without_hydra(full)
        try:
            config = check_tree(tree)
        except ConfigError as error:
            raise ConfigError([*problems, *error.problems]) from error
        if problems:
            raise ConfigError(problems)
        return Composed(config, tree, full, (*notices, *self._supplied_by_user(full)), tuple(words))

    def settle(self, words: Sequence[str]) -> tuple[DictConfig, list[Problem], list[str]]:
        """Compose, and drop arguments of components that are not the chosen ones.

        Returns the config with Hydra's node, the problems of words that had to be left out, and what was
        dropped. Raises ConfigError when nothing can be composed.
        """
        usable = list(words)
        listed = [word for word in usable if _chooses_several(word)]
        usable = [word for word in usable if word not in listed]
        full, problems = self._compose_all(usable)
        problems = [
            Problem(f"{word}: one option is chosen", "to sweep over several add -m") for word in listed
        ] + problems
        if full is None:
            raise ConfigError(problems)
        refuse_unsafe(full)
        problems += _unchosen_trackers(full, usable)
        try:
            notices = settle(full, usable, self._load_once, self._load_option)
        except _LOADING_ERRORS as error:
            raise ConfigError([*problems, explain("", error)]) from error
        return full, problems, notices

    def jobs(self, words: Sequence[str]) -> list[list[str]]:
        """The words of each job of a sweep, in order. Raises ConfigError for what cannot be parsed."""
        overrides = self.parse(words)
        try:
            batches = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        except HydraException as error:
            raise ConfigError(
                first_line(error),
                "every combination of lists is run: lr=1e-2,1e-3; intervals go with hydra/sweeper=optuna",
            ) from error
        return [list(job) for batch in batches for job in batch]

    def parse(self, words: Sequence[str]) -> list[Override]:
        """The words in Hydra's grammar. Raises ConfigError for each that is not."""
        overrides: list[Override] = []
        problems = []
        for word in words:
            try:
                overrides.extend(OverridesParser.create(config_loader=self.loader).parse_overrides([word]))
            except HydraException as error:
                problems.append(explain(word, error))
        if problems:
            raise ConfigError(problems)
        return overrides

    def run(self, composed: Composed, directory: Path, work: Callable[[], T]) -> T:
        """Do ``work`` as Hydra's job, so that callbacks and job settings hold; returns what it returns."""
        outcome: list[T] = []
        failure: list[Exception] = []

        def task(_: DictConfig) -> None:
            # Hydra would print an error of the task before raising it.
            try:
                outcome.append(work())
            except Exception as error:
                failure.append(error)

        with read_write(composed.full.hydra):
            composed.full.hydra.run.dir = str(directory)
        callbacks = Callbacks(composed.full)
        callbacks.on_run_start(config=composed.full, config_name=self.config_name)
        job = run_job(
            hydra_context=HydraContext(config_loader=self.loader, callbacks=callbacks),
            task_function=task,
            config=composed.full,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
        )
        callbacks.on_run_end(config=composed.full, config_name=self.config_name, job_return=job)
        if failure:
            raise failure[0]
        return outcome[0]

    def sweep_directory(self, words: Sequence[str]) -> str:
        """The sweep directory that the config asks for."""
        full = self._load(list(words), RunMode.MULTIRUN)
        refuse_unsafe(full)
        HydraConfig.instance().set_config(full)
        return str(full.hydra.sweep.dir)

    def launcher(self, words: Sequence[str]) -> str:
        """The option of ``hydra/launcher`` that the config asks for."""
        return str(self._load(list(words), RunMode.MULTIRUN).hydra.runtime.choices["hydra/launcher"])

    def sweeper(self, words: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """The option of ``hydra/sweeper`` and its settings.

        Raises ConfigError for what is wrong in words that choose one; what else cannot be composed is
        ``basic``, whose check of every job says all that is wrong.
        """
        try:
            full = self._load(list(words), RunMode.MULTIRUN)
        except _LOADING_ERRORS:
            if any(word_rules.split(word)[1] == "hydra/sweeper" for word in words):
                fixed = [each for each in self.parse(words) if not each.is_sweep_override()]
                problems = self._unknown_to_sweeper(words)
                problems = problems or self.settle([each.input_line or "" for each in fixed])[1]
                if problems:
                    raise ConfigError(problems) from None
            return "basic", {}
        refuse_unsafe(full)
        settings = OmegaConf.to_container(full.hydra.sweeper, resolve=True)
        assert isinstance(settings, dict)
        option = str(full.hydra.runtime.choices["hydra/sweeper"])
        return option, {str(key): value for key, value in settings.items()}

    def _unknown_to_sweeper(self, words: Sequence[str]) -> list[Problem]:
        """Keys of ``hydra.sweeper`` that the chosen one does not have."""
        option = [word for word in words if word_rules.split(word)[1] == "hydra/sweeper"]
        problems = []
        with contextlib.suppress(*_LOADING_ERRORS):
            known = [str(key) for key in self._load(option).hydra.sweeper if key != "_target_"]
            for word in words:
                group, _, key = word_rules.split(word)[1].rpartition(".")
                if group == "hydra.sweeper" and key not in known:
                    close = nearest(key, known)
                    remedy = f"did you mean {group}.{close}? " if close else ""
                    problems.append(
                        Problem(
                            f"{group}.{key}: there is no such key", f"{remedy}there are: {', '.join(known)}"
                        )
                    )
        return problems

    def instantiate_launcher(
        self, words: Sequence[str], directory: Path, task: Callable[[DictConfig], Any]
    ) -> Launcher:
        """Hydra's launcher for a sweep into ``directory``; it calls ``task`` once a job."""
        place = word_rules.friendly(f"hydra.sweep.dir={directory}")
        full = self._load([*words, place], RunMode.MULTIRUN)
        context = HydraContext(config_loader=self.loader, callbacks=Callbacks(full))
        try:
            return Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=task, config=full
            )
        except HydraException as error:
            raise ConfigError(first_line(error)) from error

    def _load(self, words: list[str], run_mode: RunMode = RunMode.RUN) -> DictConfig:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra's advice to its programmers
            return self.loader.load_configuration(
                config_name=self.config_name, overrides=words, run_mode=run_mode
            )

    def _compose_all(self, words: list[str]) -> tuple[DictConfig | None, list[Problem]]:
        """Compose; a word that stops it is reported and taken out of ``words``, so that the next is found."""
        problems: list[Problem] = []
        while True:
            try:
                return self._load(words), problems
            except _LOADING_ERRORS as error:
                culprit = self._blame(words, error)
                if culprit is None:
                    problems.append(explain("", error))
                    return None, problems
                problems.append(explain(culprit, error))
                words[:] = [word for word in words if word != culprit]

    def _blame(self, words: list[str], error: Exception) -> str | None:
        """The word without which this error does not occur."""
        for word in words:
            try:
                self._load([other for other in words if other != word])
            except _LOADING_ERRORS as other_error:
                if str(other_error) == str(error):
                    continue
            return word
        return None

    def _load_once(self, words: list[str]) -> DictConfig:
        """The same, to be read only: what is composed of the same words is not composed again."""
        key = tuple(words)
        if key not in self._loaded:
            self._loaded[key] = self._load(words)
        return self._loaded[key]

    def _load_option(self, group: str, option: str) -> DictConfig | None:
        """What an option's own file says, without the files that come after it."""
        loaded = self.loader.load_configuration(
            config_name=f"{group}/{option}", overrides=[], run_mode=RunMode.RUN
        )
        node = loaded.get(group)
        return node if isinstance(node, DictConfig) else None

    def _supplied_by_user(self, full: DictConfig) -> list[str]:
        folder = user_conf()
        if folder is None:
            return []
        choices = [f"{group}/{choice}" for group, choice in full.hydra.runtime.choices.items() if choice]
        # Of several options of one group Hydra does not say which.
        choices += [f"{TRACKERS.group}/{label}" for label in full.get(TRACKERS.group) or ()]
        found = [path for path in dict.fromkeys([*choices, "local"]) if (folder / f"{path}.yaml").is_file()]
        return [f"from ./conf: {', '.join(found)}"] if found else []


def _chooses_several(word: str) -> bool:
    _, key, value = word_rules.split(word)
    return key in COMPONENTS and value[:1] in ("[", "{")


def _unchosen_trackers(full: DictConfig, words: Sequence[str]) -> list[Problem]:
    """A problem for each word that sets something of a tracker that is not chosen. In a file it may wait."""
    problems = []
    for word in words:
        group, _, rest = word_rules.split(word)[1].partition(".")
        label, _, argument = rest.partition(".")
        node = OmegaConf.select(full, f"{TRACKERS.group}.{label}") if group == TRACKERS.group else None
        if argument and isinstance(node, DictConfig) and "name" not in node and label in TRACKERS.names():
            problems.append(
                Problem(
                    f"{word.lstrip('+')}: this tracker is not chosen",
                    f"add tracker={label}; several are a list: tracker=[csv,tensorboard]",
                )
            )
    return problems


def without_hydra(full: DictConfig) -> DictConfig:
    tree = OmegaConf.masked_copy(full, [str(key) for key in full if key != "hydra"])
    assert isinstance(tree, DictConfig)
    return tree


def run_directory(composed: Composed) -> str:
    """The run directory that the config asks for."""
    HydraConfig.instance().set_config(composed.full)
    return str(composed.full.hydra.run.dir)


def check_tree(tree: DictConfig) -> Config:
    """Resolve a composed tree, import the plugins it names, and check it."""
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(explain_value(error)) from error
    assert isinstance(values, dict)
    named = values.get("plugins")
    plugins.load([str(name) for name in named] if isinstance(named, list) else [])
    return check({str(key): value for key, value in values.items()})
