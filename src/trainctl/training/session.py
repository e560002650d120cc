"""One run, from its request to the closing table: build, attach, fit, test, write down."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trainctl.checkpoint import bad_step, snapshot
from trainctl.checkpoint.format import folder_name, read_checkpoint, ready_to_save, save_checkpoint
from trainctl.config.connections import connections
from trainctl.config.safety import environment_names
from trainctl.config.settings import Config
from trainctl.config.values import parse_values
from trainctl.data.fingerprint import described_data
from trainctl.data.progress import shown_by
from trainctl.distributed.group import Group
from trainctl.errors import Problem, TrainctlError, WorkerError, torch_error
from trainctl.paths import short_path
from trainctl.registry import plugins, trust
from trainctl.runs import files
from trainctl.runs.directory import point_latest
from trainctl.runs.record import RunRecord, now
from trainctl.training import artifacts, devices
from trainctl.training.build import build
from trainctl.training.built import Built
from trainctl.training.display import Display
from trainctl.training.hooks.console import Console
from trainctl.training.hooks.guard import Keep
from trainctl.training.hooks.metrics_log import MetricsLog
from trainctl.training.hooks.mirror import Mirror, make_mirror
from trainctl.training.hooks.profile import Profiler, attach, show_profile
from trainctl.training.hooks.signals import Signals
from trainctl.training.hooks.system import SystemMetrics
from trainctl.training.hooks.tracking import Tracking, build_trackers
from trainctl.training.loop import evaluate_split
from trainctl.training.report import built_record, closing, header, step_record, test_record
from trainctl.training.request import Request
from trainctl.training.resume import apply, blamed_on_checkpoint
from trainctl.training.run import Hook, Run
from trainctl.training.warning_signs import no_better_than_a_guess

log = logging.getLogger("trainctl")


class Session:
    """One run, which :meth:`run` does from its beginning to its end.

    Args:
        record: the ``run.json`` of the run.
        group: the processes that train it together, of which this is rank 0.
        ended: closed when it is written down how the run ended.
    """

    def __init__(
        self,
        request: Request,
        record: RunRecord,
        display: Display,
        group: Group | None = None,
        ended: contextlib.ExitStack | None = None,
    ) -> None:
        self.request, self.record, self.display, self.group = request, record, display, group
        self.directory, self.ended = request.directory, ended or contextlib.ExitStack()
        self.mirror: Mirror | None = None

    def run(self) -> None:
        """Train, test, and record the result. Raises TrainctlError where it does not end well."""
        try:
            with shown_by(self.display.waiting):
                built = self._build()
            notices = [*built, *self._attach()]
            self._begin(notices)
            test = self._fit()
            self._finish(test)
        except RuntimeError as error:
            if (known := torch_error(error)) is not None:
                raise known from error
            raise

    def _build(self) -> list[str]:
        """Build the run; returns notices."""
        request, record = self.request, self.record
        config, recorded = request.config, record.values.get("environment") or {}
        self.plugins = plugins.load(config.plugins)
        remember_own(request, self.plugins)
        if request.resumed is not None:
            config = request.resumed.with_recorded_threads(config, record.values)
        self.config = config
        self.trackers = build_trackers(config.trackers)
        if request.resumed is None:
            self.built = build(config, group=self.group)
        else:
            stored = described_data(request.resumed.content.state)
            self.built = build(config, recorded=recorded, stored=stored, group=self.group)
        record.update(**built_record(self.built, self.plugins))
        return [*request.notices, *self.built.notices]

    def _attach(self) -> list[str]:
        """Attach the hooks that log, save, show and interrupt the run; restore a resumed one."""
        request, config, run, record = self.request, self.config, self.built.run, self.record
        self.signals = Signals()
        self.metrics_log = MetricsLog(self.directory / "metrics.jsonl")
        writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if config.checkpoint.overlap else None
        saving = {**checkpointing(config, self.built), "writer": writer, "sync": self.metrics_log.sync}
        if config.checkpoint.mirror is not None:
            before = record.values.get("mirror")
            self.mirror = make_mirror(
                config.checkpoint.mirror, self.directory, before, self._say, self._mirrored
            )
            self.ended.callback(self.mirror.close)
            saving["saved"] = self.mirror.offer
        self.checkpointer = devices.checkpointer(config, self.group)(
            self.directory / "checkpoints", self._hold, **saving
        )
        console = Console(self.display, -(-run.total_steps // len(run.train_loader)), config.display.every)
        self.tracking = self._make_tracking()
        own = [self.metrics_log, self.checkpointer, console, *([self.mirror] if self.mirror else [])]
        tracking: list[Hook] = [self.tracking] if self.trackers else []
        if config.system_metrics is not None:
            tracking.append(SystemMetrics(config.system_metrics, self.built.device, self._row))
        run.attach([*request.hooks(self.built), *own, *tracking, self.signals])
        if config.profile:
            attach(run, self.directory)
        run.announce = self._announce
        said = []
        if request.resumed is not None:
            said = apply(self.built, request.resumed, record)
            self.checkpointer.saved_step = run.state.step
        if (guard := run.hook("guard")) is not None:
            guard.keep = capsule_keeper(request, self.built, self.plugins)
            if self.group is not None:
                guard.keep = devices.keeper(config, self.group, guard.keep)
        return said

    def _make_tracking(self) -> Tracking:
        """The hook that feeds the trackers; ``run.json`` has their states from now on."""
        config, directory, record = self.request.config, self.directory, self.record
        name = config.name or "/".join(directory.parts[-2:])
        settings = tracked_settings(self.request) if self.trackers else {}
        tracking = Tracking(self.trackers, directory / "metrics.jsonl", name, settings, self.display.notice)
        record.values.pop("trackers", None)
        if self.trackers:
            record.update(trackers=tracking.states)
        return tracking

    def _row(self, run: Run, values: Mapping[str, float]) -> None:
        """Write a row after the newest step, also for the trackers."""
        self.metrics_log.flush()
        self.metrics_log.write({**run.state.where, **values})
        self.tracking.flush()
        self.tracking.write(run.state.step, values)

    def _begin(self, notices: list[str]) -> None:
        """Store the config, and show the header."""
        self.record.update(step=step_record(self.built))
        begin(self.request, self.record, self.display, self.built, notices)

    def _hold(self, run: Run, copied: bool) -> Any:
        """Take the run for a checkpoint, ``copied`` or as it is; the result gives it."""
        content = ready_to_save(self.built.snapshot(copied=copied), self.built.buffers)
        return lambda: content

    def _say(self, text: str) -> None:
        self.display.notice(text)
        log.info(text)

    def _mirrored(self, values: Mapping[str, Any]) -> None:
        self.record.update(mirror=dict(values))

    def _announce(self, topic: str, text: str, word: str) -> None:
        self._say(text)
        self.record.update(environment={**self.record.values["environment"], topic: word})

    def _fit(self) -> dict[str, float]:
        """Train and test; returns the values of the test split."""
        built, run = self.built, self.built.run
        try:
            # Closed first, so that a Ctrl-C meanwhile is still caught.
            with self.tracking.ending(), self.signals.caught(), contextlib.closing(built):
                built.while_waiting(self._look)
                try:
                    with self._resumed_whole():
                        built.fit(run)
                    test = self._test()
                except TrainctlError as error:
                    # These come between two steps: the run is whole.
                    stopped = error.status in ("interrupted", "terminated")
                    if stopped or (isinstance(error, WorkerError) and self.group is None):
                        run.save()
                        said = f"{error if stopped else 'saved'} in {short_path(self.checkpointer.path(run))}"
                        saved = Problem(said, self._how_to_resume() if built.resumes else "")
                        error.problems = (saved,) if stopped else (*error.problems, saved)
                    raise
                finally:
                    self.checkpointer.close(run)
                if test:
                    self.metrics_log.write({**run.state.where, **test})
                    self.tracking.write(run.state.step, test)
                    self.metrics_log.sync()
        finally:
            # The losses up to the failure are what explains it.
            self.metrics_log.close()
            if (profiler := run.hook(Profiler.name)) is not None:
                profiler.close()
            self.record.values.update(last=run.state.last or run.state.where, best=run.state.best)
        return test

    def _how_to_resume(self) -> str:
        return f"it goes on with: trainctl resume {shlex.quote(short_path(self.directory))}"

    def _resumed_whole(self) -> AbstractContextManager[None]:
        """Errors of what was restored, as the checkpoint's."""
        resumed = self.request.resumed
        return contextlib.nullcontext() if resumed is None else blamed_on_checkpoint(resumed.checkpoint)

    def _look(self) -> None:
        """Called while the loop waits for a batch: raise where a signal has come."""
        self.signals.poll(self.built.run)
        self.built.run.control.interrupt()

    def _test(self) -> dict[str, float]:
        """The test split, once, on the best checkpoint; on the last parameters when none was better.

        The classes are counted on that split, or without one on the validation split.
        """
        built, run = self.built, self.built.run
        self.confusion = artifacts.make_confusion(self.request, built)
        is_test = built.test is not None or self.confusion is None
        split, loader = ("test", built.test) if is_test else ("val", run.val_loader)
        best: Path | None = None
        if run.state.best is not None and run.state.best["step"] != run.state.step:
            best = self.directory / "checkpoints" / folder_name(run.state.best["step"])
        if self.group is not None:
            self.group.first((split, self.confusion is not None, best))
        if loader is None:
            return {}
        if self.group is not None:
            devices.take_best(run, self.group, best)
        elif best is not None:
            run.result.load_state_dict(read_checkpoint(best, training=False).model)
        values = evaluate_split(artifacts.counting(run, self.confusion), split, loader)
        return values if split == "test" else {}

    def _finish(self, test: dict[str, float]) -> None:
        """Record how the run ended, then draw, feed the trackers, and show the closing table."""
        record, display, run = self.record, self.display, self.built.run
        best_step = run.state.best["step"] if run.state.best else run.state.step
        overfit = run.hook("overfit")
        unlearned = None if overfit is None else overfit.failure(run)
        record.update(
            status="done" if unlearned is None else "failed",
            exit_code=0 if unlearned is None else unlearned.exit_code,
            reason=run.state.stop if unlearned is None else str(unlearned),
            ended=now(),
            test=test_record(run.state, test),
            **({"skipped": run.state.skipped} if run.state.skipped else {}),
        )
        if run.state.skipped:
            display.notice(f"{run.state.skipped} steps were left out: not finite (train.log names them)")
        if run.state.stop:
            display.notice(f"stopped early: {run.state.stop}")
        reached = {**(run.state.best or {}), **test}
        if (guess := no_better_than_a_guess(self.built.data, reached)) is not None:
            self._announce("guess", guess, guess)
        with artifacts.interruptible(display) as came:
            artifacts.draw_pictures(self.request, self.built, best_step, self.confusion, display)
            self.tracking.close(record.values["status"], artifacts.artifacts(self.directory, best_step))
        if self.trackers:
            record.write()
        if self.mirror is not None:
            self.mirror.close()
        if (profiler := run.hook(Profiler.name)) is not None:
            show_profile(profiler.profile, display, record)
        closing(display, record, self.directory, best_step)
        if unlearned is not None:
            raise unlearned
        if came:
            raise came[0]


def remember_own(request: Request, stored: list[dict[str, str]]) -> None:
    """Note in the user's state folder that this user trains a run with these plugins, environment variables
    and connections."""
    named = environment_names(request.files["config.yaml"])
    if stored or named or connections(request.config):
        trust.remember(request.directory, stored, named)


def begin(
    request: Request, record: RunRecord, display: Display, built: Built, notices: Sequence[str]
) -> None:
    """Store the config, and show the header and the notices."""
    # Only now: until here `last` is the run before, as in init_from=last.
    if request.latest and (not_latest := point_latest(request.directory)) is not None:
        notices = [*notices, not_latest]
    for name, content in request.files.items():
        files.replace(request.directory / name, content.encode())
    record.before = None
    display.header(*header(request, built))
    for notice in notices:
        display.notice(notice)
        log.info(notice)


def tracked_settings(request: Request) -> dict[str, Any]:
    """The run's settings by dotted key, for trackers; those of the trackers themselves left out.

    They are the stored ones: the checked config has values from the environment, which may be secrets. A
    resumed run gives the same again, paths included: MLflow refuses a parameter whose value has changed.
    """
    settings = parse_values(request.files["config.yaml"].encode(), "config.yaml")
    return {key: value for key, value in settings.items() if key.partition(".")[0] != "tracker"}


def checkpointing(config: Config, built: Built) -> dict[str, Any]:
    """Arguments of a Checkpointer, as the config asks for them."""
    return {
        **config.checkpoint.model_dump(exclude={"overlap", "mirror"}),
        "monitor": built.monitor,
        "lower_is_better": built.lower_is_better,
    }


def capsule_keeper(request: Request, built: Built, stored: list[dict[str, str]], take: Any = None) -> Keep:
    """Stores a capsule of a bad step in the run directory.

    Args:
        stored: the plugins, as in ``run.json``.
        take: copies the run; the default is ``built.snapshot``.
    """
    folder = request.directory / "capsules"

    def keep(run: Run, inputs: Tensor, targets: Tensor, random_state: Tensor, why: str) -> str:
        described = {"config": request.files["config.yaml"], "plugins": stored, "why": why}
        content = built.snapshot() if take is None else take()
        # The step uses the weights that train, not their average.
        before = replace(content, model=snapshot.weights(run.model))
        capsule = bad_step.of(before, inputs, targets, random_state, described)
        name = folder_name(run.state.step + 1)
        if (folder / name).exists():  # of this step under other settings
            files.remove_folder(folder / name)
        return short_path(save_checkpoint(folder, capsule, name))

    return keep
