"""From command-line words and YAML files to one checked config, by Hydra and OmegaConf.

The only place, beside ``cli`` and ``sweep``, that knows Hydra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trainctl import plugins
from trainctl import words as word_rules
from trainctl.config import Config, check, check_component, known_keys, show, unknown_key
from trainctl.errors import ConfigError, Problem, UnsafeInputError, nearest
from trainctl.locations import conf_directory, user_conf
from trainctl.registry import COMPONENTS

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)
# Hydra raises a plain ValueError for a group that is given null or a number.
_LOADING_ERRORS = (*COMPOSITION_ERRORS, ValueError)
T = TypeVar("T")
_BLANK = "_blank_"
_RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_", "()")
_HYDRA_CLASSES = ("hydra._internal.core_plugins.", "hydra.experimental.callbacks.", "hydra_plugins.")


class UserConfSource(FileConfigSource):
    """A user's ``./conf``: options and ``local.yaml`` count, a ``config.yaml`` in it is somebody else's."""

    @staticmethod
    def scheme() -> str:
        return "trainctl-user"

    def is_config(self, config_path: str) -> bool:
        return Path(config_path).stem != "config" and super().is_config(config_path)


class BlankSource(ConfigSource):
    """An empty option ``_blank_`` in every group, to compose what the other files alone say of a group."""

    @staticmethod
    def scheme() -> str:
        return "trainctl-blank"

    def load_config(self, config_path: str) -> ConfigResult:
        return ConfigResult(provider=self.provider, path=config_path, config=OmegaConf.create(), header={"package": None})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path in COMPONENTS

    def is_config(self, config_path: str) -> bool:
        return Path(config_path).stem == _BLANK

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


class TrainctlSearchPath(SearchPathPlugin):
    """A user's ``./conf`` is searched before trainctl's own. Registered here and not discovered, so that
    other Hydra programs of the environment never see it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "main" not in [element.provider for element in search_path.get_path()]:
            return
        folder = user_conf()
        if folder is not None:
            search_path.prepend(
                "user", f"{UserConfSource.scheme()}://{folder}", SearchPathQuery(provider="main")
            )
        search_path.append("trainctl-blank", f"{BlankSource.scheme()}://")


def register_search_path() -> None:
    """Make Hydra look into the user's ``./conf`` first. Safe to call again."""
    for plugin in (UserConfSource, BlankSource, TrainctlSearchPath):
        if plugin not in Plugins.instance().discover(plugin.__mro__[1]):
            Plugins.instance().register(plugin)


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
            if not Path(config_dir).is_dir():
                raise ConfigError(f"--config-dir {config_dir}: there is no such folder")
            search_path.append("command-line", f"file://{Path(config_dir).resolve()}")
        search_path.append("schema", "structured://")
        GlobalHydra.instance().clear()
        self.hydra = Hydra.create_main_hydra2(task_name="trainctl", config_search_path=search_path)
        self.loader = self.hydra.config_loader

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
        full, problems = self._compose_all(list(words))
        if full is None:
            raise ConfigError(problems)
        refuse_unsafe(full)
        notices: list[str] = []
        try:
            self._settle(full, list(words), notices)
        except OmegaConfBaseException as error:
            raise ConfigError([*problems, Problem(_first_line(error))]) from error
        return full, problems, notices

    def jobs(self, words: Sequence[str]) -> list[list[str]]:
        """The words of each job of a sweep, in order. Raises ConfigError for what cannot be parsed."""
        overrides = []
        problems = []
        for word in words:
            try:
                overrides.extend(OverridesParser.create(config_loader=self.loader).parse_overrides([word]))
            except HydraException as error:
                problems.append(self._explain(word, error))
        if problems:
            raise ConfigError(problems)
        try:
            batches = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        except HydraException as error:
            raise ConfigError(
                _first_line(error), "Hydra's basic sweeper takes lists: lr=1e-2,1e-3"
            ) from error
        return [list(job) for batch in batches for job in batch]

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

    def sweep(self, words: Sequence[str], directory: Path, task: Callable[[DictConfig], None]) -> None:
        """Run Hydra's sweeper over ``words`` into ``directory``; it calls ``task`` once a job."""
        place = word_rules.friendly(f"hydra.sweep.dir={directory}")
        self.hydra.multirun(self.config_name, task_function=task, overrides=[*words, place])

    def _load(self, words: list[str], run_mode: RunMode = RunMode.RUN) -> DictConfig:
        return self.loader.load_configuration(
            config_name=self.config_name, overrides=words, run_mode=run_mode
        )

    def _compose_all(self, words: list[str]) -> tuple[DictConfig | None, list[Problem]]:
        """Compose; a word that stops it is reported and dropped, so that the next one is found, too."""
        problems: list[Problem] = []
        while True:
            try:
                return self._load(words), problems
            except _LOADING_ERRORS as error:
                culprit = self._blame(words, error)
                if culprit is None:
                    problems.append(self._explain("", error))
                    return None, problems
                problems.append(self._explain(culprit, error))
                words = [word for word in words if word != culprit]

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

    def _explain(self, word: str, error: Exception) -> Problem:
        sign, key, value = word_rules.split(word)
        word = word.lstrip("+")
        if isinstance(error, MissingConfigException) and error.missing_cfg_file:
            return self._explain_missing(word, error)
        if "group override must be" in str(error):
            if key in COMPONENTS:
                problems: list[Problem] = []
                check_component(COMPONENTS[key], None if value == "null" else value, problems)
                return problems[0]
            return Problem(f"{word}: this is a group, an option's name is needed", f"trainctl ls {key} shows them")
        if "Ambiguous value" in str(error):
            return Problem(f"{word}: several values", f"to sweep over them add -m; a list is {key}=[{value}]")
        if isinstance(error, OverrideParseException) or isinstance(error.__cause__, OverrideParseException):
            return Problem(
                f"{word}: cannot be parsed",
                f"quote the value: {key}=\"'…'\"; lists are [1,2], nothing is null",
            )
        if word and "Could not override" in str(error):
            if key in known_keys() and not sign:
                return Problem(f"{word}: {_first_line(error)}")
            return unknown_key(key)
        if word and sign != "~" and "/" not in key and "." not in key and key not in known_keys():
            return unknown_key(key)
        return Problem(f"{word}: {_first_line(error)}" if word else _first_line(error))

    def _explain_missing(self, word: str, error: MissingConfigException) -> Problem:
        missing = str(error.missing_cfg_file).removesuffix(".yaml")
        group, _, option = missing.rpartition("/")
        options = sorted(set(error.options or []) - {_BLANK})
        if not group:
            return Problem(f"{missing}: there is no such config in {conf_directory()}")
        given = word or f"{group}={option}"
        close = nearest(option, options)
        remedy = f"did you mean {group}={close}? " if close else ""
        if group in COMPONENTS and option in COMPONENTS[group].names():
            return Problem(f"{given}: no option file", f"{option} is registered: type {group}.name={option}")
        return Problem(f"{given}: there is no such option", f"{remedy}there are: {', '.join(options)}")

    # ---------------------------------------------------------------- another component, other arguments

    def _settle(self, full: DictConfig, words: list[str], notices: list[str]) -> None:
        """Drop, in place, the arguments that were meant for a component which is not the chosen one.

        An experiment's arguments belong to the component that the files choose, an option file's to the
        component it names; the words of the command line always count.
        """
        parsed = [(*word_rules.split(word), word) for word in words]
        choosing = {
            key.partition(".")[0] for _, key, _, _ in parsed if key in COMPONENTS or _names_component(key)
        }
        named = {group for group in COMPONENTS if _option_name(full, group) != _node_name(full, group)}
        if not choosing and not named:
            return
        rest = [word for sign, key, _, word in parsed if key.partition(".")[0] not in COMPONENTS]
        blanks = [f"{group}={_BLANK}" for group in COMPONENTS]
        outer, before = self._load(rest + blanks), self._load(rest)
        for group in sorted(choosing | named):
            self._settle_group(group, full, outer, before, parsed, notices)

    def _settle_group(
        self,
        group: str,
        full: DictConfig,
        outer: DictConfig,
        before: DictConfig,
        parsed: list[tuple[str, str, str, str]],
        notices: list[str],
    ) -> None:
        option = self._option_node(group, full)
        option_name = option.get("name") if option is not None else None
        name = _node_name(full, group)
        choices = [tree.hydra.runtime.choices.get(group) for tree in (full, before)]
        if (
            option_name is not None
            and choices[0] != choices[1]
            and f"{group}.name" not in [key for _, key, _, _ in parsed]
        ):
            # Another option was chosen by a word: its own name counts, not one an experiment set for the old.
            name = str(option_name)
        if name is None:
            return
        from_files = outer.get(group) or OmegaConf.create()
        typed = [
            key
            for _, key, _, _ in parsed
            if word_rules.is_component_argument(key) and key.startswith(f"{group}.")
        ]
        typed_names = {key.split(".")[1] for key in typed}
        parts, dropped = [], []
        for source, meant_for in ((option, option_name), (from_files, _node_name(before, group))):
            if source is None or not source:
                continue
            if meant_for in (None, name):
                parts.append(source)
            else:
                arguments = [
                    f"{key}={show(_plain(source[key]))}"
                    for key in source
                    if key not in ("name", *typed_names)
                ]
                dropped += [(argument, meant_for) for argument in arguments]
        node = OmegaConf.merge(*parts) if parts else OmegaConf.create()
        assert isinstance(node, DictConfig)
        OmegaConf.set_struct(node, False)
        for key in typed:
            value = OmegaConf.select(full, key, throw_on_resolution_failure=False)
            if value is not None or _has(full, key):
                OmegaConf.update(node, key.partition(".")[2], value, merge=False)
        node["name"] = name
        OmegaConf.set_struct(full, False)
        full[group] = node
        for meant_for in dict.fromkeys(owner for _, owner in dropped):
            arguments = ", ".join(argument for argument, owner in dropped if owner == meant_for)
            notices.append(f"{group}={name}: dropped {arguments} (meant for {meant_for})")

    def _option_node(self, group: str, full: DictConfig) -> DictConfig | None:
        choice = full.hydra.runtime.choices.get(group)
        if choice in (None, _BLANK):
            return None
        loaded = self.loader.load_configuration(
            config_name=f"{group}/{choice}", overrides=[], run_mode=RunMode.RUN
        )
        node = loaded.get(group)
        return node if isinstance(node, DictConfig) else None

    def _supplied_by_user(self, full: DictConfig) -> list[str]:
        folder = user_conf()
        if folder is None:
            return []
        choices = [f"{group}/{choice}" for group, choice in full.hydra.runtime.choices.items() if choice]
        found = [path for path in [*choices, "local"] if (folder / f"{path}.yaml").is_file()]
        return [f"from ./conf: {', '.join(found)}"] if found else []


def _names_component(key: str) -> bool:
    group, _, rest = key.partition(".")
    return group in COMPONENTS and rest == "name"


def _node_name(full: DictConfig, group: str) -> str | None:
    node = full.get(group)
    name = node.get("name") if isinstance(node, DictConfig) else None
    return str(name) if name is not None else None


def _option_name(full: DictConfig, group: str) -> str | None:
    """What the chosen option is called; by convention the component it names, checked when they differ."""
    choice = full.hydra.runtime.choices.get(group)
    return str(choice) if choice is not None else None


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _has(full: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(full, parent)
    return isinstance(node, DictConfig) and leaf in node


def without_hydra(full: DictConfig) -> DictConfig:
    tree = OmegaConf.masked_copy(full, [key for key in full if key != "hydra"])
    assert isinstance(tree, DictConfig)
    return tree


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# -------------------------------------------------------------------- safety


def refuse_unsafe(full: DictConfig) -> None:
    """Raise UnsafeInputError where a config asks for something to be called.

    ``_target_`` and its kin have no meaning in trainctl; inside Hydra's own node they may name Hydra's and
    its plugins' classes only. ``()`` is logging's way to call a factory.
    """
    problems: list[Problem] = []
    values = OmegaConf.to_container(full, resolve=False)
    assert isinstance(values, dict)
    _find_calls(values, "", problems)
    if problems:
        raise UnsafeInputError(problems)


def _find_calls(node: Any, path: str, problems: list[Problem]) -> None:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        full = f"{path}.{key}" if path else str(key)
        inside_hydra = full.startswith("hydra.")
        if inside_hydra and key == "_target_" and str(value).startswith(_HYDRA_CLASSES):
            continue
        if inside_hydra and key in ("_recursive_", "_convert_"):
            continue
        if inside_hydra and key == "class" and re.fullmatch(r"logging(\.handlers)?\.\w+", str(value)):
            continue
        if key in _RESERVED or (inside_hydra and key == "class"):
            problems.append(
                Problem(
                    f"{full}={show(value)}: refused, a config chooses components by name and calls nothing",
                    "choose with GROUP=OPTION; code of your own goes under plugins=[./my_model.py]",
                )
            )
        else:
            _find_calls(value, full, problems)


# -------------------------------------------------------------------- checked, and stored


def run_directory(composed: Composed) -> str:
    """The run directory that the config asks for."""
    HydraConfig.instance().set_config(composed.full)
    return str(composed.full.hydra.run.dir)


def check_tree(tree: DictConfig) -> Config:
    """Resolve a composed tree, import the plugins it names, and check it."""
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error), "a value refers to a key that is not there") from error
    assert isinstance(values, dict)
    named = values.get("plugins")
    plugins.load([str(name) for name in named] if isinstance(named, list) else [])
    return check({str(key): value for key, value in values.items()})


def stored_files(composed: Composed) -> dict[str, str]:
    """What a run stores of its config, by file name.

    Interpolations are kept, so that an override on resume reaches everything that depends on it; paths
    become absolute, so that the run can be used from another folder. References to the environment stay
    references: a secret is not written down.
    """
    tree = composed.tree.copy()
    for key in word_rules.PATH_KEYS:
        if (
            not key.startswith("hydra.")
            and isinstance(value := _unresolved(tree, key), str)
            and "${" not in value
        ):
            OmegaConf.update(tree, key, _absolute(value))
    named = [_absolute(name) if name.endswith(".py") else name for name in composed.config.plugins]
    OmegaConf.update(tree, "plugins", named)
    overrides = OmegaConf.create(
        [word for word in composed.overrides if not word.lstrip("+~").startswith("hydra")]
    )
    return {"config.yaml": OmegaConf.to_yaml(tree), "overrides.yaml": OmegaConf.to_yaml(overrides)}


def read_config(path: Path, trusted: Callable[[list[str]], None]) -> Config:
    """The checked config that a run stored.

    ``trusted`` is called with the plugins before any is imported, and raises to refuse them.
    """
    try:
        tree = OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {_first_line(error)}", "give the directory of a run") from error
    if not isinstance(tree, DictConfig):
        raise ConfigError(f"{path}: not a run's config")
    refuse_unsafe(tree)
    trusted([str(name) for name in tree.get("plugins") or []])
    return check_tree(tree)


def _unresolved(tree: DictConfig, key: str) -> Any:
    container: Any = OmegaConf.to_container(tree, resolve=False)
    for part in key.split("."):
        container = container.get(part) if isinstance(container, dict) else None
    return container


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
