"""The lifecycle of one config: composed, built, trained, saved, killed, resumed, compared, used."""

from __future__ import annotations

import contextlib
import json
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.analysis.differences import compare
from trainctl.checkpoint.format import CheckpointData, folder_name, read_checkpoint
from trainctl.config.composer import Composed, Composer
from trainctl.config.settings import Component
from trainctl.config.stored_config import stored_files
from trainctl.errors import CheckpointError, ConfigError, NotLearnedError, TrainctlError
from trainctl.inference.evaluate import score
from trainctl.inference.export import FORMATS, export, require
from trainctl.inference.trained_run import Trained, load_run
from trainctl.registry import plugins
from trainctl.runs import metrics_file
from trainctl.runs.directory import claim
from trainctl.runs.record import read_record
from trainctl.smoke.case_builder import CaseBuilder, SkippedError
from trainctl.smoke.cases import Case
from trainctl.smoke.predicting import check_predictions
from trainctl.smoke.report import AFTER_FAILED, ONCE, Result
from trainctl.smoke.settings import STEPS
from trainctl.training.build import Built
from trainctl.training.display import Silent
from trainctl.training.request import Request
from trainctl.training.request import make_request
from trainctl.training.run import Hook, Run
from trainctl.training.train import train

_COMMAND = "trainctl smoke"


class _FailedError(Exception):
    """A phase that failed, in words."""


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
class LifecycleTest:
    """One case from its words to its exported model, phase by phase.

    Args:
        settings: overrides that hold for every case.
        folder: of this case alone.
        kill: trains what is stored in a directory, is killed there, and returns the process's exit code.
        on_result, on_note: called with each result, and with each note for people.
    """

    composer: Composer
    case: Case
    settings: tuple[str, ...]
    folder: Path
    kill: Callable[[Path, dict[str, str], str], int]
    on_result: Callable[[Result], None]
    on_note: Callable[[str], None]
    over: str | None = field(default=None, init=False)
    builder: CaseBuilder = field(init=False)
    trained: Trained = field(init=False)
    content: CheckpointData | None = field(init=False)
    used: Path = field(init=False)

    def __post_init__(self) -> None:
        self.used = self.folder / "uninterrupted"
        self.builder = CaseBuilder(self.composer, self.case, self.settings, self.folder, self.on_note)

    @property
    def composed(self) -> Composed:
        return self.builder.composed

    @property
    def built(self) -> Built:
        return self.builder.built

    def run(self) -> str:
        """Run all phases but those of ``ONCE``; returns a key that is equal for configs that share
        the results of ``ONCE``, or nothing if a phase failed and all have a result."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, phase in (
            ("compose", self.builder.compose),
            ("build", self.builder.build),
            ("train", self._train),
            ("save", self._save),
            ("kill", self._kill),
            ("resume", self._resume),
            ("compare", self._compare),
            ("evaluate", self._evaluate),
            ("predict", self._predict),
            ("export safetensors", lambda: self._export("safetensors")),
        ):
            self.do(name, phase)
        if self.over is None:
            return self._export_key()
        for name in ONCE:
            self.do(name, lambda: None)
        return ""

    def export(self, used: Path, phases: Sequence[str] = tuple(ONCE)) -> None:
        """The phases of ``ONCE``, of the run in ``used``."""
        self.trained = load_run(used, device=torch.device("cpu"))
        for name in phases:
            self.do(name, lambda name=name: self._export(ONCE[name]))  # type: ignore[misc]

    def do(self, name: str, phase: Callable[[], None]) -> None:
        """Run one phase; an earlier failure skips it."""
        started = time.perf_counter()
        status, reason = "passed", ""
        if self.over is not None:
            status, reason = "skipped", self.over
        else:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    phase()
            except SkippedError as skipped:
                status, reason = "skipped", str(skipped)
                if name == "build":
                    self.over = reason  # nothing is left to go on with
            except (_FailedError, TrainctlError) as error:
                status, reason = "failed", str(error)
            except Exception as error:
                plugin = plugins.blamed(error)
                said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                status, reason = "failed", f"{plugin}: {said}" if plugin else said
        if status == "failed":
            self.over = f"{AFTER_FAILED}{name}"
        self.on_result(Result(name, status, time.perf_counter() - started, reason))

    # ------------------------------------------------------------------ train, save

    def _train(self) -> None:
        """Train in memory; the result is compared with what is saved later."""
        with contextlib.closing(self.built) as built:
            keep = _Keep(built)
            built.run.hooks.append(keep)
            built.fit(built.run)
            if built.run.state.step != STEPS:
                raise _FailedError(f"{built.run.state.step} steps taken, not {STEPS}: {built.run.state.stop}")
            self.content = keep.content

    def _save(self) -> None:
        """Train again, as a run with checkpoints, and read these back."""
        record = self._run(self.used)
        failed = [state for state in (record.get("trackers") or {}).values() if "failed" in state]
        if failed:
            raise _FailedError(f"tracker {failed[0]}")
        saved = read_checkpoint(self._checkpoint(self.used, STEPS))
        read_checkpoint(self._checkpoint(self.used, 1))
        assert self.content is not None
        if (found := compare(saved, self.content)) is not None:
            raise _FailedError(f"the checkpoint differs from the same {STEPS} steps in memory: {found}")

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
            reason = "it did not start"
            with contextlib.suppress(ConfigError):
                reason = read_record(self.folder / "killed").get("reason") or "it ran to its end"
            raise _FailedError(f"its process ended with exit code {code} before it could be killed: {reason}")
        if not self._checkpoint(self.folder / "killed", 1).is_dir():
            raise _FailedError("the checkpoint of the step before the kill is missing")

    def _refuse_unresumable(self) -> None:
        if not self.built.resumes:
            raise SkippedError(f"loop={self.composed.config.loop.name} does not resume")

    def _resume(self) -> None:
        self._refuse_unresumable()
        directory = self.folder / "killed"
        request = make_request(directory, [], command=_COMMAND)
        if request is None:
            raise _FailedError("the killed run is recorded as finished")
        if request.resumed is None or request.resumed.content.step != 1:
            raise _FailedError("it does not resume from the checkpoint of its first step")
        _finished(replace(request, latest=False))

    def _compare(self) -> None:
        """Every loss and the last checkpoint equal those of the uninterrupted run to the last bit."""
        self._refuse_unresumable()
        runs = [self.used, self.folder / "killed"]
        one, other = (metrics_file.recorded(run / "metrics.jsonl") for run in runs)
        for step in range(1, STEPS + 1):
            losses = [each.steps.get(step, {}).get("train/loss") for each in (one, other)]
            _same(f"loss of step {step}", *losses)
        whole, resumed = (read_checkpoint(self._checkpoint(run, STEPS)) for run in runs)
        if (found := compare(whole, resumed)) is not None:
            raise _FailedError(f"the resumed run differs from the uninterrupted one: {found}")
        before, after = (each.evaluations.get(STEPS, {}) for each in (one, other))
        for name in {**before, **after}:
            if name != "samples_per_second":
                _same(name, before.get(name), after.get(name))
        lines = [len((run / "metrics.jsonl").read_bytes().splitlines()) for run in runs]
        _same("lines of metrics.jsonl", *lines)
        self.used = runs[1]

    # ------------------------------------------------------------------ evaluate, predict, export

    def _evaluate(self) -> None:
        """From the directory alone; the values equal those that the run recorded."""
        self.trained = load_run(self.used, device=torch.device("cpu"))
        found = score(self.trained, None)
        for name, recorded in (found.recorded or {}).items():
            if name in found.values and found.values[name] != recorded and recorded == recorded:
                raise _FailedError(f"{name}: {found.values[name]}, but the run recorded {recorded}")

    def _predict(self) -> None:
        found = check_predictions(self.trained, self.folder)
        if found is not None:
            raise _FailedError(found)

    def _export(self, kind: str) -> None:
        model, name = self.trained.model, self.trained.config.model.name
        if kind != "safetensors" and not isinstance(model, nn.Module):
            raise SkippedError(f"model={name} is plain Python, not a torch.nn.Module")
        if kind != "safetensors" and not getattr(model, "exports", True):
            raise SkippedError(f"model={name} declares that it cannot be exported")
        try:
            require(kind)
        except ConfigError as error:
            raise SkippedError(str(error)) from error
        export(self.trained, kind, self.folder / f"model{FORMATS[kind]}")

    def _export_key(self) -> str:
        """What the exports of ``ONCE`` depend on: the model, its inputs and transform, its outputs."""
        trained = self.trained
        described = trained.content.state["data"].get("transform")
        # A custom transform depends on the settings of its dataset.
        transform = _settings(trained.config.dataset) if described is None else described["kind"]
        raw = trained.raw_sample()
        before = (transform, raw["dtype"], tuple(raw["shape"]), trained.input_shape)
        return repr((_settings(trained.config.model), before, trained.task.name, trained.output_size))


def _settings(component: Component) -> tuple[str, list[tuple[str, Any]]]:
    return component.name, sorted(component.arguments.items())


def _finished(request: Request) -> dict[str, Any]:
    """Train to the end. Two steps cannot overfit a batch: that check is left out."""
    try:
        return train(request, Silent())
    except NotLearnedError:
        return read_record(request.directory)


def _same(what: str, uninterrupted: object, resumed: object) -> None:
    if json.dumps(uninterrupted) != json.dumps(resumed):
        raise _FailedError(f"{what}: {uninterrupted} uninterrupted, {resumed} resumed")
