"""Train once: build the run, fit it, test it on the best checkpoint, write down what happened."""

from __future__ import annotations

import contextlib
import logging
import platform
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainctl.config.settings import Config
from trainctl.errors import ConfigError, Problem, StorageError, TrainctlError, WorkerError, storage_error
from trainctl.paths import short_path
from trainctl.runs import directory as rundir
from trainctl.runs import files
from trainctl.training import artifacts as _tracking
from trainctl.training import observers as _habits
from trainctl.training.display import Display
from trainctl.training.interrupts import Stopped
from trainctl.training.report import closing, device_name, header
from trainctl.training.startup import importing
from trainctl.ui.display import make_display

if TYPE_CHECKING:
    from torch import Tensor

    from trainctl.checkpoint.format import Content
    from trainctl.config.config_diff import Change
    from trainctl.training.build import Built
    from trainctl.training.confusion import Confusion
    from trainctl.training.hooks.base import Hook
    from trainctl.training.hooks.guard import Keep
    from trainctl.training.loop import Run

log = logging.getLogger("trainctl")


@dataclass(frozen=True)
class Resumed:
    """Where and how a run goes on.

    Attributes:
        checkpoint: the one it goes on from.
        content: what stands in it.
        broken: newer ones that are damaged, with the reason.
        changes: what is to be different from here on.
    """

    checkpoint: Path
    content: Content
    broken: tuple[tuple[Path, str], ...] = ()
    changes: tuple[Change, ...] = ()

    def recorded(self, command: str) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return {
            "status": "running",
            "exit_code": None,
            "reason": None,
            "ended": None,
            "resumed": {
                "at": rundir.now(),
                "step": self.content.step,
                "checkpoint": self.checkpoint.name,
                "damaged": [path.name for path, _ in self.broken],
                "command": command,
                "changes": {change.key: [change.before, change.after] for change in self.changes},
            },
        }

    def with_recorded_threads(self, config: Config, values: Mapping[str, Any]) -> Config:
        """The number of threads decides the last bits: ``auto`` is what the run was started with."""
        threads = (values.get("environment") or {}).get("threads")
        return replace(config, threads=threads) if config.threads == "auto" and threads else config

    def apply(self, built: Built) -> list[str]:
        """Put ``built`` where the run was; returns what people must be told."""
        from trainctl.training.resume import resume, set_aside

        resume(built, self.content, self.changes)
        said = [f"resumed from {self.checkpoint.name}", *set_aside(self.broken)]
        for change in self.changes:
            said.append(
                f"changed: {change} (the new value wins{f'; {change.inexact}' if change.inexact else ''})"
            )
        return said


@dataclass(frozen=True)
class Request:
    """One run to do.

    Attributes:
        config: the checked settings.
        files: what to store of the config, by file name.
        directory: where it goes, taken already.
        notices: what the user must be told before the run.
        command: the command line as typed.
        resumed: where an interrupted run goes on; None for a new one.
        latest: point ``outputs/latest`` at it.
        hooks: makes hooks that watch the run beside its own.
    """

    config: Config
    files: Mapping[str, str]
    directory: Path
    notices: tuple[str, ...]
    command: str
    resumed: Resumed | None = None
    latest: bool = True
    hooks: Callable[[Built], Sequence[Hook]] = lambda built: ()


def train(request: Request, display: Display | None = None) -> dict[str, Any]:
    """Do one run; returns what stands in its ``run.json``.

    ``display`` takes the place of the one that ``display.mode`` names.

    Raises TrainctlError when it does not end well; ``run.json`` then has the status and the reason.
    """
    config, directory = request.config, request.directory
    display = display or make_display(config.display.mode, config.display.every)
    with rundir.lock(directory), log_file(directory), storage_errors(directory):
        before = None if request.resumed is None else rundir.read_record(directory)
        if request.resumed is None:
            record = rundir.RunRecord(directory, command=request.command, name=config.name, git=git_state())
        else:
            resumed = request.resumed.recorded(request.command)
            record = rundir.RunRecord.again(directory, **resumed, name=config.name)
        try:
            _train(request, record, display)
        except BaseException as error:
            display.close()
            if before is not None and not record.begun:
                # Nothing has happened to the run: what stood there still holds.
                record.values = before
                with contextlib.suppress(OSError):
                    record.write()
            elif record.values["status"] != "done" or not isinstance(error, KeyboardInterrupt | Stopped):
                record_failure(record, error)
            raise
    return record.values


def _train(request: Request, record: rundir.RunRecord, display: Display) -> None:
    # torch is imported here, after the config has been found right and the directory is ours.
    with importing():
        from trainctl.checkpoint import snapshot
        from trainctl.registry import plugins
        from trainctl.training.build import build
        from trainctl.training.hooks.checkpointer import Checkpointer
        from trainctl.training.hooks.console import Console
        from trainctl.training.hooks.guard import Guard
        from trainctl.training.hooks.metrics_log import MetricsLog
        from trainctl.training.hooks.signals import Signals
        from trainctl.training.hooks.tracking import build_trackers

    config, directory, resumed = request.config, request.directory, request.resumed
    stored = plugins.load(config.plugins)
    if resumed is not None:
        config = resumed.with_recorded_threads(config, record.values)
    trackers = build_trackers(config.trackers)
    built = build(config)
    run = built.run
    record.update(
        environment=environment_of(built, stored),
        parameters=built.parameters,
        monitor={"name": built.monitor, "lower_is_better": built.lower_is_better},
    )
    # Only now: until here `last` means the run before, in init_from=last, say.
    not_latest = rundir.point_latest(directory) if request.latest else None

    orders: dict[int, str] = {}

    def take(run: Run) -> Content:
        epoch = run.state.epoch
        if epoch not in orders:
            orders.clear()
            orders[epoch] = built.order_digest(epoch)
        return snapshot.take(run, {"data": built.described, "order": orders[epoch]}, built.device)

    signals = Signals()
    metrics_log = MetricsLog(directory / "metrics.jsonl")
    checkpointer = Checkpointer(
        directory / "checkpoints",
        take,
        **checkpointing(config, built),
        overlap=config.checkpoint.overlap,
        sync=metrics_log.sync,
    )
    epochs = -(-run.total_steps // len(run.train))
    console = Console(display, epochs, config.display.every)
    tracking = _tracking.make_tracking(trackers, request, record, display)
    confusion = _tracking.make_confusion(config, built)
    watching = [tracking] if trackers else []
    run.hooks = [*run.hooks, *request.hooks(built), metrics_log, checkpointer, console, *watching, signals]
    _habits.attach(run, config, directory, display, record)
    notices = [*request.notices, *built.notices, *([not_latest] if not_latest else [])]
    if resumed is not None:
        notices += resumed.apply(built)
        checkpointer.saved_step = run.state.step
    for hook in run.hooks:
        if isinstance(hook, Guard):
            hook.keep = capsule_keeper(request, take, stored)
    for name, content in request.files.items():
        files.replace(directory / name, content.encode())
    record.begun = True
    display.header(*header(request, built))
    for notice in notices:
        display.notice(notice)
        log.info(notice)
    try:
        # Closed first, so that a Ctrl-C meanwhile is still caught.
        with tracking.ending(), signals.caught(), contextlib.closing(built):
            built.while_waiting(lambda: signals.poll(run))
            try:
                built.fit(run)
                test = _test(built, directory, confusion)
            except TrainctlError as error:
                # Between two steps, all of them: what was trained is whole.
                if error.status in ("interrupted", "terminated") or isinstance(error, WorkerError):
                    error.problems = (
                        *error.problems,
                        Problem(f"saved in {short_path(checkpointer.save(run))}"),
                    )
                raise
            finally:
                checkpointer.close(run)
            if test:
                metrics_log.write({**run.state.where, **test})
                tracking.write(run.state.step, test)
                metrics_log.sync()
    finally:
        # The losses up to the failure are what explains it.
        metrics_log.close()
        _habits.release(run, config)
        record.values.update(last=run.state.last or run.state.where, best=run.state.best)
    best_step = run.state.best["step"] if run.state.best else run.state.step
    unlearned = _habits.judged(run, config)
    record.update(
        status="done" if unlearned is None else "failed",
        exit_code=0 if unlearned is None else unlearned.exit_code,
        reason=run.state.stop if unlearned is None else str(unlearned),
        ended=rundir.now(),
        test=test_record(run.state, test),
        **({"skipped": run.state.skipped} if run.state.skipped else {}),
    )
    if run.state.skipped:
        display.notice(f"{run.state.skipped} steps were left out: not finite (train.log names them)")
    if run.state.stop:
        display.notice(f"stopped early: {run.state.stop}")
    with _tracking.interruptible(display) as came:
        status = record.values["status"]
        _tracking.finish(config, built, directory, best_step, confusion, tracking, display, status)
    if trackers:
        record.write()
    _habits.show_profile(run, config, display, record)
    closing(display, record, directory, best_step)
    if unlearned is not None:
        raise unlearned
    if came:
        raise came[0]


def checkpointing(config: Config, built: Built) -> dict[str, Any]:
    """When to save and what to keep, as the config asks for it: arguments of a Checkpointer."""
    return {
        **config.checkpoint.model_dump(exclude={"overlap"}),
        "monitor": built.monitor,
        "lower_is_better": built.lower_is_better,
    }


def capsule_keeper(request: Request, take: Callable[[Run], Content], stored: list[dict[str, str]]) -> Keep:
    """What a guard keeps a bad step with: a capsule in the run directory.

    Args:
        take: copies the run.
        stored: the plugins, as the run's record has them.
    """
    from trainctl.checkpoint import bad_step as capsule
    from trainctl.checkpoint import format as checkpoint
    from trainctl.checkpoint import snapshot

    folder = request.directory / "capsules"

    def keep(run: Run, inputs: Tensor, targets: Tensor, random_state: Tensor, why: str) -> str:
        described = {"config": request.files["config.yaml"], "plugins": stored, "why": why}
        # The step was that of the weights that train, not of their average.
        before = replace(take(run), model=snapshot.weights(run.model))
        content = capsule.of(before, inputs, targets, random_state, described)
        name = checkpoint.folder_name(run.state.step + 1)
        if (folder / name).exists():  # of this step under other settings
            files.remove_folder(folder / name)
        return short_path(checkpoint.save(folder, content, name, finite=False))

    return keep


def environment_of(built: Built, stored: list[dict[str, str]]) -> dict[str, Any]:
    """What ``run.json`` says of where a run is trained."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(built.device),
        "threads": built.threads,
        "matmul": torch.get_float32_matmul_precision(),
        "plugins": stored,
    }


def test_record(state: Any, test: Mapping[str, float]) -> dict[str, Any] | None:
    """What ``run.json`` says of the test: its values, at the step and epoch of the model that was tested."""
    if not test:
        return None
    where = {key: state.best[key] for key in ("step", "epoch")} if state.best else state.where
    return {**where, **test}


def _test(built: Built, directory: Path, confusion: Confusion | None = None) -> dict[str, float]:
    """The test split, once, on the best checkpoint; on the last parameters when none was better.

    What ``confusion`` counts is that split, or without one the validation split.
    """
    from trainctl.checkpoint import format as checkpoint
    from trainctl.training.loop import evaluate_split

    run = built.run
    split, loader = ("test", built.test) if built.test or confusion is None else ("val", run.val)
    if loader is None:
        return {}
    if run.state.best is not None and run.state.best["step"] != run.state.step:
        best = directory / "checkpoints" / checkpoint.folder_name(run.state.best["step"])
        run.result.load_state_dict(checkpoint.read(best).model)
    values = evaluate_split(_tracking.counting(run, confusion), split, loader)
    return values if split == "test" else {}


def git_state() -> dict[str, Any] | None:
    """The commit of the current folder and what differs from it; None outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, timeout=10, check=True)
        return done.stdout.decode("utf-8", "replace")

    try:
        commit = git("rev-parse", "HEAD").strip()
        return {"commit": commit, "diff": git("diff", "HEAD") or None}
    except (OSError, subprocess.SubprocessError):
        return None


def record_stop(directory: Path, error: BaseException) -> None:
    """Write into ``run.json`` what stopped a run before it could do so itself."""
    with contextlib.suppress(ConfigError, OSError):
        if rundir.read_record(directory).get("status") == "running":
            record_failure(rundir.RunRecord.again(directory), error)


def record_failure(record: rundir.RunRecord, error: BaseException) -> None:
    """Write into ``run.json`` how ``error`` ended the run."""
    if isinstance(error, OSError):
        error = storage_error(error, "writing the run")
    if isinstance(error, TrainctlError):
        status, code, reason = error.status, error.exit_code, str(error)
    elif isinstance(error, Stopped):
        status, code, reason = error.error.status, error.error.exit_code, str(error.error)
    elif isinstance(error, KeyboardInterrupt):
        status, code, reason = "interrupted", 130, "interrupted"
    else:
        status, code, reason = "failed", 1, f"{type(error).__name__}: {error}"
    unforeseen = code == 1 and not isinstance(error, TrainctlError)
    log.error("%s: %s", status, reason, exc_info=error if unforeseen else None)
    with contextlib.suppress(OSError):  # the disk that failed the run may fail this, too
        record.update(status=status, exit_code=code, reason=reason, ended=rundir.now())


@contextlib.contextmanager
def storage_errors(directory: Path) -> Iterator[None]:
    """What the disk refuses inside is a StorageError (exit 5)."""
    try:
        yield
    except (OSError, StorageError) as error:
        if not directory.is_dir():
            raise StorageError(
                f"the run directory {directory} has disappeared", "the run cannot go on"
            ) from error
        if isinstance(error, StorageError):
            raise
        raise storage_error(error, "writing the run") from error


def open_log(directory: Path) -> logging.Handler:
    """``train.log``, open. Raises StorageError."""
    try:
        handler = logging.FileHandler(directory / "train.log", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, "writing the run") from error
    # No room for a line of the log must not end the run, nor print a traceback: what it says is also shown.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


@contextlib.contextmanager
def logged_to(handler: logging.Handler) -> Iterator[None]:
    """Send what is logged inside to ``handler``."""
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


@contextlib.contextmanager
def log_file(directory: Path) -> Iterator[None]:
    """Send what is logged inside to ``train.log``."""
    handler = open_log(directory)
    try:
        with logged_to(handler):
            yield
    finally:
        with contextlib.suppress(OSError):
            handler.close()


def command_line(arguments: list[str]) -> str:
    """The command as typed, quoted for a shell."""
    return shlex.join(["trainctl", *arguments])
