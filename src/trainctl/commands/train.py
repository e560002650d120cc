"""Train once: build the run, fit it, test it on the best checkpoint, write down what happened."""

from __future__ import annotations

import contextlib
import logging
import platform
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainctl import rundir
from trainctl.commands._report import closing, device_name, header
from trainctl.config import Config
from trainctl.errors import Problem, StorageError, TrainctlError, WorkerError, storage_error
from trainctl.interrupts import Stopped
from trainctl.startup import importing
from trainctl.ui.display import Display, make_display, short_path

log = logging.getLogger("trainctl")


@dataclass(frozen=True)
class Request:
    """One run to do.

    Attributes:
        config: the checked settings.
        files: what to store of the config, by file name.
        directory: where it goes, taken already.
        notices: what the user must be told before the run.
        command: the command line as typed.
    """

    config: Config
    files: Mapping[str, str]
    directory: Path
    notices: tuple[str, ...]
    command: str


def train(request: Request, display: Display | None = None) -> dict[str, Any]:
    """Do one run; returns what stands in its ``run.json``.

    ``display`` takes the place of the one that ``display.mode`` names.

    Raises TrainctlError when it does not end well; ``run.json`` then has the status and the reason.
    """
    config, directory = request.config, request.directory
    display = display or make_display(config.display.mode, config.display.every)
    with _log_file(directory), _storage_errors(directory):
        record = rundir.RunRecord(directory, command=request.command, name=config.name, git=_git())
        try:
            for name, content in request.files.items():
                (directory / name).write_text(content, encoding="utf-8")
            _train(request, record, display)
        except BaseException as error:
            display.close()
            _record_failure(record, error)
            raise
    return record.values


def _train(request: Request, record: rundir.RunRecord, display: Display) -> None:
    # torch is imported here, after the config has been found right and the directory is ours.
    with importing():
        import torch

        from trainctl import plugins
        from trainctl.build import build
        from trainctl.hooks.best import Best
        from trainctl.hooks.checkpointer import Checkpointer
        from trainctl.hooks.clip import ClipNorm
        from trainctl.hooks.console import Console
        from trainctl.hooks.guard import LossGuard
        from trainctl.hooks.metrics_log import MetricsLog
        from trainctl.hooks.plateau import Plateau
        from trainctl.hooks.signals import Signals
        from trainctl.loop import fit

    config, directory = request.config, request.directory
    stored = plugins.load(config.plugins)
    built = build(config)
    run, data = built.run, built.data
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device_name(built.device),
        "threads": built.threads,
        "plugins": stored,
    }
    record.update(environment=environment, parameters=built.parameters)
    # Only now: until here `last` means the run before, in init_from=last, say.
    not_latest = rundir.point_latest(directory)
    display.header(*header(request, built))
    for notice in (*request.notices, *built.notices, *([not_latest] if not_latest else [])):
        display.notice(notice)
        log.info(notice)

    signals = Signals()
    described = {
        "name": data.name,
        "task": data.task,
        "input_shape": list(data.input_shape),
        "output_size": data.output_size,
        "classes": list(data.classes),
    }
    checkpointer = Checkpointer(
        directory / "checkpoints", described, config.checkpoint.every_epochs, config.checkpoint.keep_last
    )
    metrics_log = MetricsLog(directory / "metrics.jsonl")
    epochs = -(-run.total_steps // len(run.train))
    run.hooks = [
        *([LossGuard()] if config.guard.loss else []),
        *([ClipNorm(config.train.clip_norm)] if config.train.clip_norm is not None else []),
        *([Plateau(built.plateau, built.monitor)] if built.plateau is not None else []),
        Best(
            built.monitor,
            config.train.patience,
            config.train.min_delta,
            lower_is_better=built.lower_is_better,
        ),
        metrics_log,
        checkpointer,
        Console(display, epochs),
        signals,
    ]
    try:
        # Closed first, so that a Ctrl-C meanwhile is still caught.
        with signals.caught(), contextlib.closing(built):
            built.while_waiting(lambda: signals.poll(run))
            try:
                fit(run)
                test = _test(built, directory)
            except TrainctlError as error:
                # Between two steps, all of them: what was trained is whole.
                if error.status in ("interrupted", "terminated") or isinstance(error, WorkerError):
                    error.problems = (
                        *error.problems,
                        Problem(f"saved in {short_path(checkpointer.save(run))}"),
                    )
                raise
            if test:
                metrics_log.write({**run.state.where, **test})
    finally:
        # The losses up to the failure are what explains it.
        metrics_log.close()
        record.values.update(last=run.state.last or run.state.where, best=run.state.best)
    best_step = run.state.best["step"] if run.state.best else run.state.step
    record.update(
        status="done",
        exit_code=0,
        reason=run.state.stop,
        ended=rundir.now(),
        test=_test_record(run.state, test),
    )
    if run.state.stop:
        display.notice(f"stopped early: {run.state.stop}")
    closing(display, record, directory, best_step)


def _test_record(state: Any, test: Mapping[str, float]) -> dict[str, Any] | None:
    if not test:
        return None
    where = {key: state.best[key] for key in ("step", "epoch")} if state.best else state.where
    return {**where, **test}


def _test(built: Any, directory: Path) -> dict[str, float]:
    """The test split, once, on the best checkpoint; on the last parameters when none was better."""
    from trainctl import checkpoint
    from trainctl.loop import evaluate_split

    if built.test is None:
        return {}
    run = built.run
    if run.state.best is not None and run.state.best["step"] != run.state.step:
        best = directory / "checkpoints" / checkpoint.folder_name(run.state.best["step"])
        parameters, _ = checkpoint.read(best)
        run.model.load_state_dict(parameters)
    return evaluate_split(run, "test", built.test)


def _git() -> dict[str, Any] | None:
    """The commit of the current folder and what differs from it; None outside a repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, timeout=10, check=True)
        return done.stdout.decode("utf-8", "replace")

    try:
        commit = git("rev-parse", "HEAD").strip()
        return {"commit": commit, "diff": git("diff", "HEAD") or None}
    except (OSError, subprocess.SubprocessError):
        return None


def _record_failure(record: rundir.RunRecord, error: BaseException) -> None:
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
    log.error("%s: %s", status, reason, exc_info=error if code == 1 else None)
    with contextlib.suppress(OSError):  # the disk that failed the run may fail this, too
        record.update(status=status, exit_code=code, reason=reason, ended=rundir.now())


@contextlib.contextmanager
def _storage_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not directory.is_dir():
            raise StorageError(
                f"the run directory {directory} has disappeared", "the run cannot go on"
            ) from error
        raise storage_error(error, "writing the run") from error


@contextlib.contextmanager
def _log_file(directory: Path) -> Iterator[None]:
    """Send what is logged inside to ``train.log``."""
    try:
        handler = logging.FileHandler(directory / "train.log", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, "writing the run") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before
        with contextlib.suppress(OSError):
            handler.close()


def command_line(arguments: list[str]) -> str:
    """The command as typed, quoted for a shell."""
    return shlex.join(["trainctl", *arguments])
