"""The life of one config: composed, built, trained, saved, killed, resumed, compared, used."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.analysis.differences import compare
from trainctl.checkpoint.format import CheckpointData, folder_name, read_checkpoint
from trainctl.cli.commands.resume import make_request
from trainctl.config.composer import Composed, Composer
from trainctl.config.overrides import is_component_argument, split_override, to_display, to_hydra
from trainctl.config.settings import Component, Config
from trainctl.config.stored_config import stored_files
from trainctl.errors import CheckpointError, ConfigError, MissingDataError, NotLearnedError, TrainctlError
from trainctl.inference import evaluate as scoring
from trainctl.inference import export as exporting
from trainctl.inference.trained_run import Trained, load_run
from trainctl.registry import COMPONENTS, TRACKERS, plugins
from trainctl.runs import metrics_file
from trainctl.runs.directory import claim
from trainctl.runs.record import read_record
from trainctl.smoke.cases import Case
from trainctl.smoke.compatible_configs import partners, target_kind
from trainctl.smoke.made_up import Form, images, stand_ins
from trainctl.smoke.predicting import check_predictions
from trainctl.smoke.report import AFTER_FAILED, ONCE, Result
from trainctl.smoke.settings import LIMIT, SETTINGS, STEPS
from trainctl.training.build import Built, build
from trainctl.training.display import Silent
from trainctl.training.prepare_data import build_data
from trainctl.training.request import Request
from trainctl.training.run import Hook, Run
from trainctl.training.train import train

_COMMAND = "trainctl smoke"


class _SkippedError(Exception):
    """A phase that this config does not have, by its own declaration."""


class _FailedError(Exception):
    """A phase that went wrong, in words."""


class _UnknownFormError(ConfigError):
    """A config does not fit what was made up in the place of data of which nothing says what it is like."""


class _Keep(Hook):
    """Copies the run after its last step, as the checkpoint of that step holds it."""

    name = "smoke"

    content: CheckpointData | None = None

    def __init__(self, built: Built) -> None:
        self.built = built

    def step(self, run: Run, loss: Tensor) -> None:
        if run.state.step == STEPS:
            with contextlib.suppress(CheckpointError):  # it is the saving that says so
                self.content = self.built.snapshot()


@dataclass
class Telling:
    """Whom a life tells how it goes: each result, and what people must be told."""

    result: Callable[[Result], None]
    note: Callable[[str], None]


@dataclass
class Life:
    """One case from its words to its exported model.

    Args:
        settings: words that hold for every case.
        folder: where everything of this case goes; it is the life's own.
        kill: trains what is stored in a directory, is killed there, and returns the process's exit code.
    """

    composer: Composer
    case: Case
    settings: tuple[str, ...]
    folder: Path
    kill: Callable[[Path, dict[str, str], str], int]
    telling: Telling
    over: str | None = None
    composed: Composed = field(init=False)
    built: Built = field(init=False)
    trained: Trained = field(init=False)
    content: CheckpointData | None = field(init=False)
    words: tuple[str, ...] = ()
    used: Path = field(init=False)
    notes: set[str] = field(default_factory=set)

    def lead(self) -> str:
        """Go through all phases but those of ``ONCE``; returns what decides how these go.

        Empty where something failed: all phases have a result then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.used = self.folder / "uninterrupted"
        for name, phase in (
            ("compose", self._compose),
            ("build", self._build),
            ("train", self._train),
            ("save", self._save),
            ("kill", self._kill),
            ("resume", self._resume),
            ("compare", self._compare),
            ("evaluate", self._evaluate),
            ("predict", self._predict),
            ("export safetensors", lambda: self._export("safetensors")),
        ):
            self._do(name, phase)
        if self.over is not None:
            for name in ONCE:
                self._do(name, lambda: None)
            return ""
        return self._kind()

    def export(self, used: Path, phases: Sequence[str] = tuple(ONCE)) -> None:
        """The phases of ``ONCE``, of the run in ``used``."""
        self.trained = load_run(used, device=torch.device("cpu"))
        for name in phases:
            self._do(name, lambda name=name: self._export(ONCE[name]))  # type: ignore[misc]

    def _do(self, name: str, phase: Callable[[], None]) -> None:
        started = time.perf_counter()
        status, reason = "passed", ""
        if self.over is not None:
            status, reason = "skipped", self.over
        else:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    phase()
            except _SkippedError as skipped:
                status, reason = "skipped", str(skipped)
                if name == "build":
                    self.over = reason  # there is nothing to go on with
            except (_FailedError, TrainctlError) as error:
                status, reason = "failed", str(error)
            except Exception as error:
                where = plugins.blamed(error)
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                status, reason = "failed", f"{where}: {said}" if where else said
        if status == "failed":
            self.over = f"{AFTER_FAILED}{name}"
        self.telling.result(Result(name, status, time.perf_counter() - started, reason))

    def _note(self, note: str) -> None:
        """Tell people something, once."""
        if note not in self.notes:
            self.notes.add(note)
            self.telling.note(note)

    # ------------------------------------------------------------------ compose, build

    def _compose(self) -> None:
        self.composed = self._composed(next(self._partners()))

    def _composed(self, words: Sequence[str], replacing: Sequence[str] = ()) -> Composed:
        """The config of the case with ``words``; ``replacing`` wins over all that is typed."""
        chosen = [*self.case.words, *words, *replacing]
        # A list of trackers of somebody's own would write to a server of theirs.
        off = [] if self.case.group == TRACKERS.group else [f"{TRACKERS.group}=none"]
        fixed = [word for word in self.settings if not is_component_argument(split_override(word)[1])]
        composed = self.composer.compose([*map(to_hydra, chosen), *off, *SETTINGS, *fixed])
        more = [word for word in self.settings if word not in fixed and _takes(composed.config, word)]
        typed = {key: value for _, key, value in map(split_override, more)}
        limit, window = typed.get("dataset.limit", str(LIMIT)), _window(composed.config)
        if limit.isdecimal() and int(limit) < window:
            more.append(f"++dataset.limit={window}")
        for label, tracker in composed.config.trackers.items():
            key = f"{TRACKERS.group}.{label}.uri"
            if tracker.name == "mlflow" and key not in typed:
                # A server of one's own, which a local.yaml may name, is not for runs of two steps.
                more.append(f"++{key}='sqlite:///{self.folder}/mlflow.db'")
        for part in (composed.config.dataset, composed.config.model):
            if part.arguments.get("download"):
                more.append(f"++{part.group}.download=false")
                if part.arguments.get("weights"):
                    more.append(f"++{part.group}.weights=null")
                    self._note("without the trained weights, which would be downloaded")
        more += map(to_hydra, replacing)
        if more:
            composed = self.composer.compose([*map(to_hydra, chosen), *off, *SETTINGS, *fixed, *more])
        self.words = tuple(words)
        return composed

    def _partners(self) -> Iterator[tuple[str, ...]]:
        _, key, value = split_override(self.case.words[0])
        name = value.strip("[]") if key == "train.metrics" else value
        for words in partners(self.case, name):
            if any("{images}" in word for word in words):
                root = images(self.folder, {}, Form())
                yield tuple(word.replace("{images}", str(root)) for word in words)
            else:
                yield words

    def _build(self) -> None:
        """Build with the partners of the first choice, or with the first others that fit."""
        first: ConfigError | None = None
        number = 0
        for number, words in enumerate(self._partners()):
            try:
                composed = self.composed if number == 0 else self._composed(words)
                note = self._build_with(composed, words)
            except ConfigError as error:
                if any("pip install" in problem.remedy for problem in error.problems):
                    raise _SkippedError(str(error)) from error
                first = first or error
                continue
            if note:
                self._note(note)
            if self.words:
                self._note(f"with {' '.join(map(to_display, map(_short, self.words)))}")
            return
        assert first is not None
        if isinstance(first, _UnknownFormError):
            raise _SkippedError(str(first)) from first
        if number:
            raise _FailedError(f"{first}; nor does it fit {number} other kinds of data and partners")
        raise first

    def _build_with(self, composed: Composed, words: Sequence[str]) -> str:
        """Build, where the data is not there with made-up data; returns what is to be said of that.

        Raises _UnknownFormError where none that was made up fits, and nothing says what the data is like.
        """
        self.composed = composed
        try:
            data = build_data(composed.config.dataset)
        except MissingDataError as error:
            missing = error
        else:
            self.built = build(composed.config, data)
            return ""
        first: ConfigError | None = None
        kind, samples = target_kind(composed.config.loss.name), max(LIMIT, _window(composed.config))
        for made in stand_ins(composed.config.dataset, missing, self.folder, kind, samples):
            self.composed = self._composed(words, made.words)
            data = build_data(self.composed.config.dataset)
            try:
                self.built = build(self.composed.config, data)
            except ConfigError as error:
                if not made.guessed or not _of_form(error):
                    raise
                first = first or error
                continue
            return made.note
        raise _UnknownFormError(
            f"{missing}, and nothing says what it is like: made up in several forms, it does not fit: {first}"
        ) from first

    # ------------------------------------------------------------------ train, save

    def _train(self) -> None:
        """Train in memory; what it comes to is compared with what is saved later."""
        with contextlib.closing(self.built) as built:
            keep = _Keep(built)
            built.run.hooks.append(keep)
            built.fit(built.run)
            if built.run.state.step != STEPS:
                raise _FailedError(f"{built.run.state.step} steps taken, not {STEPS}: {built.run.state.stop}")
            self.content = keep.content

    def _save(self) -> None:
        """The same as a run of its own, whose checkpoints are read back."""
        record = self._run(self.used)
        failed = [state for state in (record.get("trackers") or {}).values() if "failed" in state]
        if failed:
            raise _FailedError(f"tracker {failed[0]}")
        saved = read_checkpoint(self._checkpoint(self.used, STEPS))
        read_checkpoint(self._checkpoint(self.used, 1))
        assert self.content is not None
        if (found := compare(saved, self.content)) is not None:
            raise _FailedError(f"what was saved is not what the same two steps gave before: {found}")

    def _run(self, directory: Path) -> dict[str, Any]:
        claim(directory, named=True)
        stored = stored_files(self.composed)
        request = Request(self.composed.config, stored, directory, (), _COMMAND, latest=False)
        return _finished(request)

    def _checkpoint(self, directory: Path, step: int) -> Path:
        return directory / "checkpoints" / folder_name(step)

    # ------------------------------------------------------------------ kill, resume, compare

    def _kill(self) -> None:
        self._refuse_unresumable()
        code = self.kill(self.folder / "killed", stored_files(self.composed), _COMMAND)
        if code != -signal.SIGKILL:
            reason = "it did not begin"
            with contextlib.suppress(ConfigError):
                reason = read_record(self.folder / "killed").get("reason") or "it went to its end"
            raise _FailedError(f"its process ended with exit code {code} before it could be killed: {reason}")
        if not self._checkpoint(self.folder / "killed", 1).is_dir():
            raise _FailedError("it was killed after its first step, whose checkpoint is not there")

    def _refuse_unresumable(self) -> None:
        if not self.built.resumes:
            raise _SkippedError(f"loop={self.composed.config.loop.name} does not resume")

    def _resume(self) -> None:
        self._refuse_unresumable()
        directory = self.folder / "killed"
        request = make_request(directory, [], command=_COMMAND, allow_change=False, trust_plugins=False)
        if request is None:
            raise _FailedError("the killed run says that it is finished")
        if request.resumed is None or request.resumed.content.step != 1:
            raise _FailedError("it does not go on from the checkpoint of its first step")
        _finished(replace(request, latest=False))

    def _compare(self) -> None:
        """Every loss and all of the last checkpoint: to the last bit those of the uninterrupted run."""
        self._refuse_unresumable()
        runs = [self.used, self.folder / "killed"]
        one, other = (metrics_file.recorded(run / "metrics.jsonl") for run in runs)
        for step in range(1, STEPS + 1):
            losses = [each.steps.get(step, {}).get("train/loss") for each in (one, other)]
            _same(f"loss of step {step}", *losses)
        whole, resumed = (read_checkpoint(self._checkpoint(run, STEPS)) for run in runs)
        if (found := compare(whole, resumed)) is not None:
            raise _FailedError(f"resumed, it is not the uninterrupted run: {found}")
        before, after = (each.evaluations.get(STEPS, {}) for each in (one, other))
        for name in {**before, **after}:
            if name != "samples_per_second":
                _same(name, before.get(name), after.get(name))
        lines = [len((run / "metrics.jsonl").read_bytes().splitlines()) for run in runs]
        _same("lines of metrics.jsonl", *lines)
        self.used = runs[1]

    # ------------------------------------------------------------------ evaluate, predict, export

    def _evaluate(self) -> None:
        """From the directory alone; the values are those that the run has recorded."""
        self.trained = load_run(self.used, device=torch.device("cpu"))
        score = scoring.score(self.trained, None)
        for name, recorded in (score.recorded or {}).items():
            if name in score.values and score.values[name] != recorded and recorded == recorded:
                raise _FailedError(f"{name}: {score.values[name]}, the run has recorded {recorded}")

    def _predict(self) -> None:
        found = check_predictions(self.trained, self.folder)
        if found is not None:
            raise _FailedError(found)

    def _export(self, kind: str) -> None:
        model, name = self.trained.model, self.trained.config.model.name
        if kind != "safetensors" and not isinstance(model, nn.Module):
            raise _SkippedError(f"model={name} is plain Python, not a torch.nn.Module")
        if kind != "safetensors" and not getattr(model, "exports", True):
            raise _SkippedError(f"model={name} says that it is not exported")
        try:
            exporting.require(kind)
        except ConfigError as error:
            raise _SkippedError(str(error)) from error
        exporting.export(self.trained, kind, self.folder / f"model{exporting.FORMATS[kind]}")

    def _kind(self) -> str:
        """What decides how the exports of ``ONCE`` go: the model, what stands before it, what comes after."""
        trained = self.trained
        described = trained.content.state["data"].get("transform")
        # A transform that trainctl does not know is made by its dataset: another setting, another transform.
        transform = _settings(trained.config.dataset) if described is None else described["kind"]
        raw = trained.raw_sample()
        before = (transform, raw["dtype"], tuple(raw["shape"]), trained.input_shape)
        return repr((_settings(trained.config.model), before, trained.task.name, trained.output_size))


def _settings(component: Component) -> tuple[str, list[tuple[str, Any]]]:
    return component.name, sorted(component.arguments.items())


def _takes(config: Config, word: str) -> bool:
    """Whether the component that ``config`` has chosen takes the argument that ``word`` sets."""
    group, _, rest = split_override(word)[1].partition(".")
    if group not in COMPONENTS:
        return True
    name = getattr(config, group).name
    return rest.partition(".")[0] in COMPONENTS[group].signature(name).names


def _window(config: Config) -> int:
    """How many samples a step takes."""
    return config.train.batch_size * config.train.accumulate


def _of_form(error: ConfigError) -> bool:
    """Whether it may be the shape of the data, or its number of classes, that does not fit."""
    of_form = ("model=", "loss=", "loss.class_weights=", "train.metrics")
    return all(
        message.startswith(of_form) or (message.startswith("model.") and "shape" in message)
        for message in (problem.message for problem in error.problems)
    )


def _finished(request: Request) -> dict[str, Any]:
    """Train to the end. Two steps do not learn a batch by heart: that check is left out."""
    try:
        return train(request, Silent())
    except NotLearnedError:
        return read_record(request.directory)


def _same(what: str, uninterrupted: object, resumed: object) -> None:
    if json.dumps(uninterrupted) != json.dumps(resumed):
        raise _FailedError(f"{what}: {uninterrupted} uninterrupted, {resumed} resumed")


def _short(word: str) -> str:
    """A word for people: a folder of made-up data is called by its name."""
    return word if "/" not in word else f"{word.partition('=')[0]}={Path(word.strip(chr(39))).name}"
