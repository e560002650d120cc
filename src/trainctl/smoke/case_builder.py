"""One case composed and built, with a compatible config, and with made-up data if its own is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainctl.config.composer import Composed, Composer
from trainctl.config.overrides import is_component_argument, split_override, to_display, to_hydra
from trainctl.config.settings import Config
from trainctl.errors import ConfigError, MissingDataError
from trainctl.registry import COMPONENTS, TRACKERS
from trainctl.smoke.cases import Case
from trainctl.smoke.compatible_configs import compatible_configs, target_kind
from trainctl.smoke.made_up import Form, images, stand_ins
from trainctl.smoke.settings import LIMIT, SETTINGS
from trainctl.training.build import build
from trainctl.training.built import Built
from trainctl.training.prepare_data import build_data


class SkippedError(Exception):
    """A phase that does not apply to this config."""


class _UnknownFormError(ConfigError):
    """None of the made-up data fits, and nothing states the form of the absent data."""


@dataclass
class CaseBuilder:
    """Composes and builds a case.

    Attributes:
        settings: overrides that hold for every case.
        folder: for made-up data and mlflow.
        tell: called with ("note", text) once for each note for people.
        composed: the case's config, after :meth:`compose`.
        built: the run, after :meth:`build`.
    """

    composer: Composer
    case: Case
    settings: tuple[str, ...]
    folder: Path
    tell: Callable[[str, Any], None]
    composed: Composed = field(init=False)
    built: Built = field(init=False)
    notes: set[str] = field(default_factory=set, init=False)

    def compose(self) -> None:
        """Compose the case with the likeliest compatible config."""
        self.composed = self._composed(next(self._compatible()))

    def build(self) -> None:
        """Build with the first compatible config that fits.

        Raises SkippedError if a package is not installed or the form of absent data is unknown, ConfigError
        if no config fits.
        """
        errors: list[ConfigError] = []
        for words in self._compatible():
            try:
                self._build_with(self._composed(words) if errors else self.composed, words)
            except ConfigError as error:
                if any("pip install" in problem.remedy for problem in error.problems):
                    raise SkippedError(str(error)) from error
                errors.append(error)
                continue
            if words:
                self._note(f"with {' '.join(map(to_display, map(_short, words)))}")
            return
        first, more = errors[0], len(errors) - 1
        if isinstance(first, _UnknownFormError):
            raise SkippedError(str(first)) from first
        if more:
            raise ConfigError(f"{first}; {more} other datasets and components do not fit either") from first
        raise first

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.add(note)
            self.tell("note", note)

    def _compatible(self) -> Iterator[tuple[str, ...]]:
        name = self.case.label.partition("=")[2].strip("[]")
        for words in compatible_configs(self.case, name):
            if any("{images}" in word for word in words):
                root = images(self.folder, {}, Form())
                words = tuple(word.replace("{images}", str(root)) for word in words)
            yield words

    def _composed(self, words: Sequence[str], replacing: Sequence[str] = ()) -> Composed:
        """The config of the case with ``words``; ``replacing`` wins over everything that is typed."""
        # A tracker list in the user's conf would write to their server.
        off = [] if self.case.group == TRACKERS.group else [f"{TRACKERS.group}=none"]
        general = [word for word in self.settings if not is_component_argument(split_override(word)[1])]
        base = [*map(to_hydra, [*self.case.words, *words, *replacing]), *off, *SETTINGS, *general]
        composed = self.composer.compose(base)
        arguments = [word for word in self.settings if word not in general and _takes(composed.config, word)]
        typed = {key: value for _, key, value in map(split_override, arguments)}
        more = [*arguments, *self._corrections(composed.config, typed), *map(to_hydra, replacing)]
        return self.composer.compose([*base, *more]) if more else composed

    def _corrections(self, config: Config, typed: dict[str, str]) -> Iterator[str]:
        """Overrides that give a step enough samples, and keep the run off servers and downloads."""
        limit, window = typed.get("dataset.limit", str(LIMIT)), _samples_a_step(config)
        if limit.isdecimal() and int(limit) < window:
            yield f"++dataset.limit={window}"
        for label, tracker in config.trackers.items():
            key = f"{TRACKERS.group}.{label}"
            if tracker.name == "mlflow" and f"{key}.uri" not in typed:
                yield f"++{key}.uri='sqlite:///{self.folder}/mlflow.db'"
            if tracker.name == "wandb" and f"{key}.mode" not in typed:
                yield f"++{key}.mode=offline"
        for part in (config.dataset, config.model):
            if part.arguments.get("download") or typed.get(f"{part.group}.download", "false") != "false":
                yield f"++{part.group}.download=false"
                if part.arguments.get("weights"):
                    yield f"++{part.group}.weights=null"
                    self._note("without the trained weights, which would be downloaded")

    def _build_with(self, composed: Composed, words: Sequence[str]) -> None:
        """Build, with made-up data if the config's own is absent."""
        self.composed = composed
        dataset = composed.config.dataset
        try:
            data = build_data(dataset)
        except MissingDataError as error:
            missing = error
        else:
            self.built = build(composed.config, data)
            return
        first: ConfigError | None = None
        kind = target_kind(composed.config.loss.name)
        samples = max(LIMIT, _samples_a_step(composed.config))
        for made in stand_ins(dataset, missing, self.folder, kind, samples):
            self.composed = self._composed(words, made.words)
            data = build_data(self.composed.config.dataset)
            try:
                self.built = build(self.composed.config, data)
            except ConfigError as error:
                if not made.guessed or not _is_about_form(error):
                    raise
                first = first or error
                continue
            self._note(made.note)
            return
        raise _UnknownFormError(
            f"{missing}, and nothing states its form; made-up data in several forms does not fit: {first}"
        ) from first


def _takes(config: Config, word: str) -> bool:
    """Whether the chosen component takes the argument that ``word`` sets."""
    group, _, rest = split_override(word)[1].partition(".")
    if group not in COMPONENTS:
        return True
    name = getattr(config, group).name
    return rest.partition(".")[0] in COMPONENTS[group].signature(name).names


def _samples_a_step(config: Config) -> int:
    return config.train.batch_size * config.train.accumulate


def _is_about_form(error: ConfigError) -> bool:
    """Whether the error may come from the data's shape or number of classes."""
    keys = ("model=", "loss=", "loss.class_weights=", "train.metrics")
    return all(
        message.startswith(keys) or (message.startswith("model.") and "shape" in message)
        for message in (problem.message for problem in error.problems)
    )


def _short(word: str) -> str:
    """An override for people: a path is cut to its last part."""
    return word if "/" not in word else f"{word.partition('=')[0]}={Path(word.strip(chr(39))).name}"
