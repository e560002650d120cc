"""The lifecycle of one config: composed, built, trained, saved, killed, resumed, compared, used."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainctl.analysis.differences import compare
from trainctl.checkpoint.format import CheckpointData, folder_name, read_checkpoint
from trainctl.config.settings import Component
from trainctl.config.stored_config import stored_files
from trainctl.errors import CheckpointError, ConfigError, NotLearnedError, TrainctlError
from trainctl.inference.evaluate import score
from trainctl.inference.export import FORMATS, export, require
from trainctl.inference.trained_run import Trained, load_run
from trainctl.registry import COMPONENTS, plugins
from trainctl.runs import metrics_file
from trainctl.runs.directory import claim, lock
from trainctl.runs.record import read_record
from trainctl.smoke.case_builder import CaseBuilder, SkippedError
from trainctl.smoke.predicting import check_predictions
from trainctl.smoke.report import AFTER_FAILED, ONCE, Result
from trainctl.smoke.settings import STEPS
from trainctl.training.built import Built
from trainctl.training.devices import unequal
from trainctl.training.display import Display
from trainctl.training.request import Request, make_request
from trainctl.training.run import Hook, Run
from trainctl.training.train import train

_COMMAND = "trainctl smoke"
_TIMEOUT = 60.0
_TOLERANCE = 1e-4
"""What the order of sums may change in a loss, two steps on."""


class _FailedError(Exception):
    """A phase failed; the message is the reason."""


class _Keep(Hook):
    """Copies the run right after its last step, when its checkpoint is taken, too."""

    name = "smoke"

    content: CheckpointData | None = None

    def __init__(self, built: Built) -> None:
        self.built = built

    def step(self, run: Run, loss: Tensor) -> None:
        if run.state.step == STEPS:
            with contextlib.suppress(CheckpointError):  # the phase save reports it
                self.content = self.built.snapshot()


@dataclass
class LifecycleTest(CaseBuilder):
    """One case from its overrides to its exported model, phase by phase, in a folder of its own.

    Attributes:
        tell: called with ("result", Result) and ("note", text).
        ask: called with ("kill", (directory, stored files, command)), to train that run in a process that is
            killed in its second step, or with "devices", to train it in two, it returns the exit code; with
            ("export", key), whether this case makes the exports of all cases with that key.
        over: why the phases that are left are skipped; None before a failure.
        used: the directory of the run to evaluate and export.
    """

    ask: Callable[[str, Any], int]
    over: str | None = field(default=None, init=False)
    trained: Trained = field(init=False)
    content: CheckpointData | None = field(init=False)
    used: Path = field(init=False)

    def __post_init__(self) -> None:
        self.used = self.folder / "uninterrupted"

    def run(self) -> str:
        """Run all phases; returns the key of the exports that it left to another case, or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.do("compose", self.compose)
        self.do("build", self.build)
        for name in ("train", "save", "kill", "resume", "compare", "devices", "evaluate", "predict"):
            self.do(name, getattr(self, f"_{name}"))
        self.do("export safetensors", lambda: self._export("safetensors"))
        key = "" if self.over else self._export_key()
        if key and not self.ask("export", key):
            return key
        for name, kind in ONCE.items():
            self.do(name, partial(self._export, kind))
        return ""

    def do(self, name: str, phase: Callable[[], None]) -> None:
        """Run one phase, unless an earlier one failed, and report its result."""
        started, status, reason = time.perf_counter(), "failed", ""
        try:
            if self.over is not None:
                raise SkippedError(self.over)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                phase()
            status = "passed"
        except SkippedError as skipped:
            status, reason = "skipped", str(skipped)
            if name == "build":
                self.over = reason
        except (_FailedError, TrainctlError) as error:
            reason = str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            if plugin := plugins.blamed(error):
                reason = f"{plugin}: {reason}"
        if status == "failed":
            self.over = f"{AFTER_FAILED}{name}"
        self.tell("result", Result(name, status, time.perf_counter() - started, reason))

    # ------------------------------------------------------------------ train, save

    def _train(self) -> None:
        """Train in memory, to compare with the checkpoint of ``_save``."""
        with contextlib.closing(self.built) as built:
            run, keep = built.run, _Keep(built)
            run.attach([keep])
            built.fit(run)
            if run.state.step != STEPS:
                raise _FailedError(f"{run.state.step} steps taken, not {STEPS}: {run.state.stop}")
            self.content = keep.content

    def _save(self) -> None:
        """Train again, as a run with checkpoints, and read them back."""
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
        return _finished(Request(self.composed.config, stored, directory, (), _COMMAND, latest=False))

    def _checkpoint(self, directory: Path, step: int) -> Path:
        return directory / "checkpoints" / folder_name(step)

    # ------------------------------------------------------------------ kill, resume, compare

    @property
    def _killed(self) -> Path:
        return self.folder / "killed"

    def _kill(self) -> None:
        self._refuse_unresumable()
        code = self.ask("kill", (self._killed, stored_files(self.composed), _COMMAND))
        if code != -signal.SIGKILL:
            reason = "it did not start"
            with contextlib.suppress(ConfigError):
                reason = read_record(self._killed).get("reason") or "it ran to its end"
            raise _FailedError(f"its process ended with exit code {code} before it could be killed: {reason}")
        if not self._checkpoint(self._killed, 1).is_dir():
            raise _FailedError("the checkpoint of the step before the kill is missing")

    def _refuse_unresumable(self) -> None:
        if not self.built.resumes:
            raise SkippedError(f"loop={self.composed.config.loop.name} does not resume")

    def _resume(self) -> None:
        self._refuse_unresumable()
        with lock(self._killed):
            request = make_request(self._killed, [], command=_COMMAND)
            if request is None:
                raise _FailedError("the killed run is recorded as finished")
            if request.resumed is None or request.resumed.content.step != 1:
                raise _FailedError("it does not resume from the checkpoint of its first step")
            _finished(replace(request, latest=False))

    def _compare(self) -> None:
        """Losses, evaluation and last checkpoint equal those of the uninterrupted run to the last bit."""
        self._refuse_unresumable()
        runs = [self.used, self._killed]
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
        _same(
            "lines of metrics.jsonl",
            *(len((run / "metrics.jsonl").read_bytes().splitlines()) for run in runs),
        )
        self.used = self._killed

    # ------------------------------------------------------------------ devices

    def _devices(self) -> None:
        """Two processes have the losses of one."""
        directory, tree = self.folder / "devices", self.composed.tree.copy()
        tree.devices, tree.strategy.timeout = 2, _TIMEOUT
        loader = self.composed.config.loader.name
        if "workers" in COMPONENTS["loader"].signature(loader).names:
            tree.loader["workers"] = 0  # a forked process cannot start its own
        asked = (directory, stored_files(replace(self.composed, tree=tree)), _COMMAND)
        code = self.ask("devices", asked)
        with contextlib.suppress(ConfigError):
            reason = read_record(directory).get("reason") or ""
            if code == ConfigError.exit_code:
                raise SkippedError(reason)
            if code:
                raise _FailedError(reason)
        if code:
            raise _FailedError(f"the first of two processes ended with exit code {code}")
        model = self.built.run.model
        if isinstance(model, nn.Module) and unequal(model, torch.device("cpu")):
            return  # masks or batch statistics differ, as the run says
        one, two = (metrics_file.recorded(run / "metrics.jsonl") for run in (self.used, directory))
        for step in range(1, STEPS + 1):
            alone, together = (each.steps[step]["train/loss"] for each in (one, two))
            if not math.isclose(alone, together, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
                raise _FailedError(
                    f"loss of step {step}: {alone:.6g} on one device, {together:.6g} on two with half a batch"
                    " each; a model that needs whole batches says several_devices = False"
                )

    # ------------------------------------------------------------------ evaluate, predict, export

    def _evaluate(self) -> None:
        """The values from the directory alone equal the recorded ones."""
        self.trained = load_run(self.used, device=torch.device("cpu"))
        found = score(self.trained, None)
        for name, recorded in (found.recorded or {}).items():
            if name in found.values and found.values[name] != recorded and recorded == recorded:
                raise _FailedError(f"{name}: {found.values[name]}, but the run recorded {recorded}")

    def _predict(self) -> None:
        if (found := check_predictions(self.trained, self.folder)) is not None:
            raise _FailedError(found)

    def _export(self, kind: str) -> None:
        model, name = self.trained.model, self.trained.config.model.name
        if kind in ONCE.values():
            if not isinstance(model, nn.Module):
                raise SkippedError(f"model={name} is plain Python, not a torch.nn.Module")
            if not getattr(model, "exports", True):
                raise SkippedError(f"model={name} declares that it cannot be exported")
        try:
            require(kind)
        except ConfigError as error:
            raise SkippedError(str(error)) from error
        export(self.trained, kind, self.folder / f"model{FORMATS[kind]}")

    def _export_key(self) -> str:
        """Everything that the exports of ``ONCE`` depend on: the model, its inputs and outputs."""
        trained = self.trained
        described = trained.content.state["data"].get("transform")
        # A custom transform depends on the settings of its dataset.
        transform = _settings(trained.config.dataset) if described is None else described["kind"]
        raw = trained.raw_sample()
        inputs = (transform, raw["dtype"], raw["shape"], trained.input_shape)
        return repr((_settings(trained.config.model), inputs, trained.task.name, trained.output_size))


def _settings(component: Component) -> tuple[str, list[tuple[str, Any]]]:
    return component.name, sorted(component.arguments.items())


def _finished(request: Request) -> dict[str, Any]:
    """Train to the end; two steps cannot overfit a batch, so that failure is ignored."""
    try:
        return train(request, Display())
    except NotLearnedError:
        return read_record(request.directory)


def _same(what: str, uninterrupted: object, resumed: object) -> None:
    if json.dumps(uninterrupted) != json.dumps(resumed):
        raise _FailedError(f"{what}: {uninterrupted} uninterrupted, {resumed} resumed")
