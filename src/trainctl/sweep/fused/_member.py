"""One model of a stack, as the run that it is."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, ready_to_save
from trainctl.data import Data
from trainctl.errors import NotFiniteError, Problem, TrainctlError
from trainctl.paths import short_path
from trainctl.runs.directory import lock
from trainctl.runs.git_state import GitState
from trainctl.runs.record import RunRecord, now
from trainctl.training.build import build
from trainctl.training.built import Built
from trainctl.training.display import Display
from trainctl.training.failures import record_failure, storage_errors
from trainctl.training.hooks import console
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.hooks.guard import Guard
from trainctl.training.hooks.metrics_log import MetricsLog
from trainctl.training.log_file import open_log
from trainctl.training.report import built_record, closing, step_record, test_record
from trainctl.training.request import Request
from trainctl.training.resume import apply
from trainctl.training.run import Run
from trainctl.training.runtime import Threads
from trainctl.training.session import begin, capsule_keeper, checkpointing, remember_own
from trainctl.training.train import open_record

log = logging.getLogger("trainctl")

Steps = Sequence[tuple[int, int, float, float]]
"""Steps as ``MetricsLog.write_steps`` takes them: number, epoch from 1, loss, learning rate."""


class Console(console.Console):
    """Feeds a display with the losses of a model of a stack: many at a time, and known."""

    def feed(self, run: Run, steps: Steps) -> None:
        """Show steps; ``run`` is at the last of them."""
        self._pending.extend(loss for _, _, loss, _ in steps)
        every, length = self._every, len(run.train_loader)
        for step, epoch, loss, lr in steps:
            if every is not None and step % every == 0:
                shown = replace(self.progress(), step=step, epoch=epoch, loss=loss, lr=lr)
                self.display.step(replace(shown, epoch_step=(step - 1) % length + 1))


class Member:
    """A job of a group, from its request to the end in its ``run.json``.

    Attributes:
        number: of the request.
        result: the run's record once it is done, or the error that ended it.
        built: the run, whose model and optimizer are views into the stack while it trains.
    """

    built: Built
    record: RunRecord
    metrics_log: MetricsLog
    checkpointer: Checkpointer
    console: Console

    def __init__(self, number: int, request: Request, display: Display) -> None:
        self.number, self.request, self.display = number, request, display
        self.result: dict[str, Any] | BaseException | None = None
        self._open = contextlib.ExitStack()
        self._handler: logging.Handler = logging.NullHandler()
        self._said: list[str] = []

    @property
    def run(self) -> Run:
        return self.built.run

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, log lines go to this run's ``train.log``, and an error of the disk is this run's."""
        handler = self._handler
        log.addHandler(handler)
        try:
            with storage_errors(self.request.directory):
                yield
        finally:
            log.removeHandler(handler)

    # ---------------------------------------------------------------- before the first step

    def open(self, git: GitState | None) -> None:
        """Take the run directory and say in ``run.json`` that the run has begun. A resumed one is taken."""
        request, directory = self.request, self.request.directory
        if request.resumed is None:
            self._open.enter_context(lock(directory))
        self._handler = self._open.enter_context(open_log(directory))
        self.record = open_record(request, git)

    def build(self, data: Data, threads: int, stored: list[dict[str, str]], writer: Executor) -> None:
        """Build the run as it is built on its own, and bring it to the step of its checkpoint."""
        request, directory = self.request, self.request.directory
        # The stack's steps are captured, if any: a trial for each model would take longer than they do.
        plain = request.config.train.model_copy(update={"capture": False})
        self.built = built = build(replace(request.config, threads=threads, train=plain), data)
        self._stored = stored
        remember_own(request, stored)
        self.run.step_name = self.run.step_name.replace("plain", "stacked", 1)
        self.metrics_log = MetricsLog(directory / "metrics.jsonl")
        self.checkpointer = Checkpointer(
            directory / "checkpoints",
            self.hold,
            **checkpointing(request.config, built),
            writer=writer if request.config.checkpoint.overlap else None,
            first_waits=True,
            sync=self.metrics_log.sync,
        )
        epochs = -(-self.run.total_steps // len(self.run.train_loader))
        self.console = Console(self.display, epochs, request.config.display.every)
        self._to_start = [*request.hooks(built), self.metrics_log, self.checkpointer, self.console]
        self.run.attach(self._to_start)
        if (guard := self.run.hook("guard")) is not None:
            guard.keep = capsule_keeper(request, built, stored, lambda: self.hold(self.run)())
        if request.resumed is not None:
            self._said = apply(built, request.resumed, self.record)
            self.checkpointer.saved_step = self.run.state.step
        # Nothing draws random numbers while the stack trains: these stay as the initialisation left them.
        self.random = snapshot.RandomStates(built.device).state_dict()

    def begin(self, models: int, threads: Threads, notices: Sequence[str]) -> None:
        """Store the config, and show what is about to be done."""
        request = self.request
        self.built = built = replace(self.built, threads=threads.number, threads_note=threads.note)
        self.record.update(
            **built_record(built, self._stored),
            step=step_record(built),
            engine="fused",
            fused={"models": models},
        )
        said = [*request.notices, *built.notices, *self._said]
        begin(request, self.record, self.display, built, [*said, *notices])
        for hook in self._to_start:
            hook.start(self.run)

    # ---------------------------------------------------------------- while it trains

    def hold(self, run: Run, copied: bool = True) -> Callable[[], CheckpointData]:
        """Copy the tensors that the next step changes; the function returned makes a checkpoint of the copy,
        which takes longer."""
        model = _cloned(dict(run.result.state_dict()))
        states = {name: _cloned(dict(part.state_dict())) for name, part in run.parts().items()}
        state = run.state.state_dict()

        def content() -> CheckpointData:
            fingerprint = self.built.data_fingerprint(state["epoch"])
            plain = {**state, "data": self.built.described, "data_fingerprint": fingerprint}
            return ready_to_save(snapshot.assemble(model, plain, {**states, "random": self.random}))

        return content

    def stepped(self, steps: Steps) -> None:
        """Write and show steps that were taken."""
        self.metrics_log.write_steps(steps)
        self.console.feed(self.run, steps)

    def not_finite(self, loss: float) -> NotFiniteError:
        """The error of the next step, whose ``loss`` is not finite; the step is kept as a capsule."""
        guard: Guard = self.run.hook("guard")
        device = self.built.device.type
        batch = next(iter(self.run.train_loader.batches(self.run.state.cursor)))
        random_state = self.random["torch" if device == "cpu" else device]
        return guard.error(self.run, f"the loss is {loss}", batch, random_state)

    # ---------------------------------------------------------------- the end

    def stop(self, error: TrainctlError) -> None:
        """Save, and end as told to."""
        self.run.save()
        path = self.checkpointer.path(self.run)
        self.checkpointer.wait()
        self.fail(type(error)((*error.problems, Problem(f"saved in {short_path(path)}"))))

    def done(self, test: Mapping[str, float]) -> None:
        """Record the end of a run that went well."""
        state = self.run.state
        if test:
            self.metrics_log.write({**state.where, **test})
            self.metrics_log.sync()
        self._end()
        tested = test_record(state, test)
        self.record.update(status="done", exit_code=0, reason=state.stop, ended=now(), test=tested)
        if state.stop:
            self.display.notice(f"stopped early: {state.stop}")
        self.result = self.record.values

    @property
    def best_step(self) -> int:
        """The step whose checkpoint was tested."""
        state = self.run.state
        return int(state.best["step"]) if state.best else state.step

    def show_end(self) -> None:
        """Show and log the end of the run, and give its directory back."""
        with self.at_work():
            closing(self.display, self.record, self.request.directory, self.best_step)
        self._open.close()

    def fail(self, error: BaseException) -> None:
        """Record the error that ended the run."""
        self.result = error
        # A disk that takes no more must not hide what came before.
        with contextlib.suppress(OSError, TrainctlError), self.at_work():
            self.display.close()
            if hasattr(self, "record"):
                if self.record.before is None:
                    with contextlib.suppress(OSError, TrainctlError):
                        self._end()
                record_failure(self.record, error)
        self._open.close()

    def _end(self) -> None:
        """Write the remaining losses."""
        if hasattr(self, "metrics_log"):
            try:
                self.checkpointer.close(self.run)
            finally:
                self.metrics_log.close()
                state = self.run.state
                self.record.values.update(last=state.last or state.where, best=state.best)


def _cloned(value: Any) -> Any:
    """``value`` with copies of its tensors, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list) else value
