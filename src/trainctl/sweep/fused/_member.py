"""One model of a stack, as the run that it is."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainctl.checkpoint import snapshot
from trainctl.checkpoint.format import CheckpointData, ready_to_save
from trainctl.data import Data
from trainctl.errors import NotFiniteError, Problem, TrainctlError
from trainctl.paths import short_path
from trainctl.runs import files
from trainctl.runs.directory import lock, point_latest
from trainctl.runs.record import RunRecord, now, read_record
from trainctl.training.build import Built, build
from trainctl.training.display import Display
from trainctl.training.failures import record_failure, storage_errors
from trainctl.training.hooks import console
from trainctl.training.hooks.checkpointer import Checkpointer
from trainctl.training.hooks.guard import Guard
from trainctl.training.hooks.metrics_log import MetricsLog
from trainctl.training.log_file import logged_to, open_log
from trainctl.training.report import closing, environment_of, header, step_record, test_record
from trainctl.training.request import Request
from trainctl.training.resume import apply
from trainctl.training.run import Run
from trainctl.training.session import capsule_keeper, checkpointing

log = logging.getLogger("trainctl")


class Console(console.Console):
    """Feeds a display with the losses of a model of a stack, which come many at a time."""

    def feed(self, run: Run, steps: Sequence[tuple[int, int, float, float]]) -> None:
        """Steps as ``MetricsLog.write_steps`` takes them; the run is where the last of them left it."""
        self._known.extend(loss for _, _, loss, _ in steps)
        every = self._every
        shown = [each for each in steps if every is not None and each[0] % every == 0]
        for step, epoch, loss, lr in shown:
            length = len(run.train_loader)
            now = replace(self.progress(), step=step, epoch=epoch, loss=loss, lr=lr)
            self.display.step(replace(now, epoch_step=(step - 1) % length + 1))

    def start(self, run: Run) -> None:
        self._known: deque[float] = deque()
        super().start(run)

    def _read_losses(self) -> None:
        if losses := [self._known.popleft() for _ in range(len(self._known))]:
            self._enter(losses)


class Member:
    """A job of a group, from its request to what its ``run.json`` says at the end.

    Attributes:
        number: of the request.
        result: the run's record once it is done, or the error that ended it.
        built: the run, whose model and optimizer are views into the stack while it trains.
    """

    built: Built
    metrics_log: MetricsLog
    checkpointer: Checkpointer
    console: Console

    def __init__(self, number: int, request: Request, display: Display) -> None:
        self.number, self.request, self.display = number, request, display
        self.result: dict[str, Any] | BaseException | None = None
        self._open = contextlib.ExitStack()
        self._record: RunRecord | None = None
        self._before: dict[str, Any] | None = None
        self._handler: logging.Handler | None = None
        self._said: list[str] = []

    @property
    def run(self) -> Run:
        return self.built.run

    @property
    def record(self) -> RunRecord:
        assert self._record is not None
        return self._record

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What is logged inside goes to this run's ``train.log``, what the disk refuses is its error."""
        handler = self._handler or logging.NullHandler()
        log.addHandler(handler)
        try:
            with storage_errors(self.request.directory):
                yield
        finally:
            log.removeHandler(handler)

    def open(self, git: Mapping[str, Any] | None) -> None:
        """Take the run directory and say in ``run.json`` that the run has begun."""
        request = self.request
        self._open.enter_context(lock(request.directory))
        self._handler = open_log(request.directory)
        self._open.callback(_close_log, self._handler)
        if request.resumed is None:
            self._record = RunRecord(
                request.directory, command=request.command, name=request.config.name, git=git
            )
        else:
            self._before = read_record(request.directory)
            values = request.resumed.recorded(request.command)
            self._record = RunRecord.again(request.directory, **values, name=request.config.name)

    def build(self, data: Data, threads: int, stored: list[dict[str, str]], writer: Executor) -> None:
        """Build the run as it is built on its own, and bring it to where it was."""
        request, directory = self.request, self.request.directory
        self.built = build(replace(request.config, threads=threads), data)
        self._stored = stored
        built, saving = self.built, request.config.checkpoint
        self.run.step_name = self.run.step_name.replace("plain", "stacked", 1)
        self.metrics_log = MetricsLog(directory / "metrics.jsonl")
        self.checkpointer = Checkpointer(
            directory / "checkpoints",
            self.hold,
            **checkpointing(request.config, built),
            writer=writer if saving.overlap else None,
            first_waits=True,
            sync=self.metrics_log.sync,
        )
        epochs = -(-self.run.total_steps // len(self.run.train_loader))
        self.console = Console(self.display, epochs, request.config.display.every)
        beside = request.hooks(built)
        self.run.attach([*beside, self.metrics_log, self.checkpointer, self.console])
        self._to_start = [*beside, self.metrics_log, self.checkpointer, self.console]
        if (guard := self.run.hook("guard")) is not None:
            guard.keep = capsule_keeper(request, built, stored, lambda: self.hold(self.run)())
        if request.resumed is not None:
            self._said = apply(built, request.resumed)
            self.checkpointer.saved_step = self.run.state.step
        # Nothing draws from them while the stack trains: they are what they were after the initialisation.
        self.random = snapshot.RandomStates(built.device).state_dict()

    def begin(self, models: int, threads: tuple[int, str], notices: Sequence[str]) -> None:
        """Store the config, and say what is about to be done."""
        request, built = self.request, self.built
        self.built = built = replace(built, threads=threads[0], threads_note=threads[1])
        self.record.update(
            environment=environment_of(built, self._stored),
            parameters=built.parameters,
            monitor={"name": built.monitor, "lower_is_better": built.lower_is_better},
            step=step_record(built),
            engine="fused",
            fused={"models": models},
        )
        not_latest = point_latest(request.directory) if request.latest else None
        for name, content in request.files.items():
            files.replace(request.directory / name, content.encode())
        self.record.begun = True
        self.display.header(*header(request, built))
        said = [*request.notices, *built.notices, *([not_latest] if not_latest else []), *self._said]
        for notice in [*said, *notices]:
            self.display.notice(notice)
            log.info(notice)
        for hook in self._to_start:
            hook.start(self.run)

    def hold(self, run: Run) -> Callable[[], CheckpointData]:
        """Copy what the next step changes; what is returned makes a checkpoint of it, which takes longer."""
        self.sync()
        model = _cloned(dict(run.result.state_dict()))
        states = {name: _cloned(dict(part.state_dict())) for name, part in run.parts().items()}
        state = run.state.state_dict()

        def content() -> CheckpointData:
            plain = {
                **state,
                "data": self.built.described,
                "data_fingerprint": self.built.data_fingerprint(state["epoch"]),
            }
            taken = snapshot.assemble(model, plain, {**states, "random": self.random})
            return ready_to_save(taken)

        return content

    sync: Callable[[], None] = staticmethod(lambda: None)
    """Brings what the stack keeps once for several models to this one's optimizer and scheduler."""

    def stepped(self, steps: Sequence[tuple[int, int, float, float]]) -> None:
        """Write and show steps that were taken."""
        self.metrics_log.write_steps(steps)
        self.console.feed(self.run, steps)

    def not_finite(self, loss: Tensor) -> NotFiniteError:
        """The error of the next step, whose ``loss`` is not finite; the step is kept to be run again."""
        self.sync()
        guard: Guard = self.run.hook("guard")
        device = self.built.device.type
        batch = next(iter(self.run.train_loader.batches(self.run.state.cursor)))
        random_state = self.random["torch" if device == "cpu" else device]
        return guard.error(self.run, f"the loss is {loss.item()}", batch, random_state)

    def stop(self, error: TrainctlError) -> None:
        """Save, and end as told to."""
        self.run.save()
        path = self.checkpointer.path(self.run)
        self.checkpointer.wait()
        self.fail(type(error)((*error.problems, Problem(f"saved in {short_path(path)}"))))

    def done(self, test: Mapping[str, float]) -> None:
        """Write down how it ended."""
        state = self.run.state
        if test:
            self.metrics_log.write({**state.where, **test})
            self.metrics_log.sync()
        self._end()
        self.record.update(
            status="done",
            exit_code=0,
            reason=state.stop,
            ended=now(),
            test=test_record(state, test),
        )
        if state.stop:
            self.display.notice(f"stopped early: {state.stop}")
        self.result = self.record.values

    @property
    def best_step(self) -> int:
        """The step whose checkpoint was tested."""
        state = self.run.state
        return int(state.best["step"]) if state.best else state.step

    def show_end(self) -> None:
        """Show and log how the run ended, and give its directory back."""
        with self.at_work():
            closing(self.display, self.record, self.request.directory, self.best_step)
        self.close()

    def fail(self, error: BaseException) -> None:
        """Write down what ended it."""
        self.result = error
        # A disk that takes no more must not hide what came before.
        with contextlib.suppress(OSError, TrainctlError), self.at_work():
            self.display.close()
            if self._before is not None and not self.record.begun:
                # Nothing has happened to the run: what stood there still holds.
                self.record.values = self._before
                self.record.write()
            elif self._record is not None:
                with contextlib.suppress(OSError, TrainctlError):
                    self._end()
                record_failure(self._record, error)
        self.close()

    def _end(self) -> None:
        """Write what is left of the losses."""
        if not hasattr(self, "metrics_log"):
            return
        try:
            self.checkpointer.close(self.run)
        finally:
            self.metrics_log.close()
            state = self.run.state
            self.record.values.update(last=state.last or state.where, best=state.best)

    def close(self) -> None:
        """Give the run directory back."""
        self._open.close()
        self._handler = None


@contextmanager
def logging_on() -> Iterator[None]:
    """Inside, members at work are logged."""
    with logged_to(logging.NullHandler()):
        yield


def _cloned(value: Any) -> Any:
    """``value`` with copies of its tensors, lists and dictionaries."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list) else value


def _close_log(handler: logging.Handler) -> None:
    with contextlib.suppress(OSError):
        handler.close()
