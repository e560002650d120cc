"""A group of jobs, trained as one stacked model.

The standard loop for many runs at once. Steps are taken in windows of up to 50, or of a second: only at the
end of one is the device waited for, are losses written and signals looked at. A loss that is not finite is
found there, too; the window is then taken back and repeated up to the bad step, whose model leaves the stack
as it was before it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeGuard

import torch

from trainctl.checkpoint.format import folder_name, read_checkpoint
from trainctl.errors import InterruptedRunError, TrainctlError
from trainctl.registry import plugins
from trainctl.registry.protocols import Batch
from trainctl.runs.git_state import read_git_state
from trainctl.sweep.fused._member import Member
from trainctl.sweep.fused._probe import Probe, probe
from trainctl.sweep.fused._steps import StackedSteps
from trainctl.training import runtime
from trainctl.training.artifacts import draw_pictures, interruptible, make_confusion
from trainctl.training.display import Display
from trainctl.training.failures import record_stop
from trainctl.training.hooks.signals import Signals
from trainctl.training.interrupts import Stopped
from trainctl.training.log_file import logged_to
from trainctl.training.request import Request
from trainctl.training.state import State
from trainctl.training.steps.stack import Stack
from trainctl.training.steps.stacked import settings_of, stacked_step
from trainctl.training.train import train as train_alone

_WINDOW = 50
_WRITERS = 8
_NO_LOSS = torch.zeros(())


def train(
    requests: Sequence[Request], progress: Callable[[int], Display], sharing: int
) -> list[dict[str, Any] | BaseException]:
    """See :func:`trainctl.sweep.fused.train_group`."""
    members = [Member(number, request, progress(number)) for number, request in enumerate(requests)]
    try:
        for together, notice, found in _divided(members, sharing):
            if found is None:
                for member in together:
                    _train_alone(member, notice)
            else:
                _train_together(Group(together, found, notice))
    except (Stopped, KeyboardInterrupt) as error:
        told = error.error if isinstance(error, Stopped) else InterruptedRunError("interrupted")
        for member in members:
            if member.result is None:
                record_stop(member.request.directory, told)
                member.result = told
    return [member.result for member in members if member.result is not None]


def _divided(members: Sequence[Member], sharing: int) -> Iterator[tuple[list[Member], str, Probe | None]]:
    """The members that train together, a notice for them, and their probe: None where they train alone."""
    places: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        resumed = member.request.resumed
        state = {} if resumed is None else resumed.content.state
        place = tuple(state.get(key) for key in ("step", "epoch", "position", "evaluated"))
        places.setdefault(place, []).append(member)
    same = max(places.values(), key=len)
    if others := [member for member in members if member not in same]:
        yield others, "it is at another step than the rest of its group", None
    config = same[0].request.config
    try:
        with runtime.random_state_kept(runtime.choose_device(config.device)):
            found = probe(config, sharing)
    except TrainctlError:
        yield same, "", None  # each reports the error of its config
        return
    if isinstance(found, str) or len(same) == 1:
        yield same, found if isinstance(found, str) else "no other job of its group is at its step", None
        return
    # As equal as they can be: 20 of which 16 fit are twice 10.
    size = -(-len(same) // -(-len(same) // found.most))
    notice = f"of {len(same)} models {size} train at a time: there is memory for {found.most}"
    for start in range(0, len(same), size):
        yield same[start : start + size], notice if size < len(same) else "", found


def _train_alone(member: Member, reason: str) -> None:
    request = member.request
    if reason:
        notices = (*request.notices, f"trained on its own, not in a stack: {reason}")
        request = replace(request, notices=notices)
    try:
        member.result = train_alone(request, member.display)
    except Exception as error:
        member.result = error
        _raise_if_told(error)


def _train_together(group: Group) -> None:
    members = list(group.members)
    try:
        group.train()
    except BaseException as error:
        for member in members:
            if member.result is None:
                member.fail(error)
        _raise_if_told(error)
        if not isinstance(error, Exception):
            raise


def _was_told(error: BaseException) -> TypeGuard[TrainctlError]:
    """Whether the error is that of a run that was told to stop."""
    return isinstance(error, TrainctlError) and error.status in ("interrupted", "terminated")


def _raise_if_told(error: BaseException) -> None:
    if _was_told(error):
        raise Stopped(error) from error


class Group:
    """Members that are at the same step, and the stack they are.

    Attributes:
        members: those that still train, by the row of each in the stack.
        cursor: the step of all of them.
    """

    def __init__(self, members: Sequence[Member], found: Probe, notice: str) -> None:
        self.members, self.found = list(members), found
        self.notices = [notice] if notice else []
        self.cursor, self.signals = State(), Signals()

    def train(self) -> None:
        """Train all members; each has its result then. Raises errors that stop all of them."""
        with (
            logged_to(logging.NullHandler()),
            ThreadPoolExecutor(_WRITERS, thread_name_prefix="checkpoint") as writer,
        ):
            self._build(writer)
            if not self.members:
                return
            self._begin()
            with self.signals.caught():
                try:
                    self._fit()
                    done = self._finish(self.members)
                except TrainctlError as error:
                    if _was_told(error):
                        told = error
                        self._each(lambda member: member.stop(told))
                    raise
        self._draw(done)

    @contextlib.contextmanager
    def _surviving(self, member: Member) -> Iterator[None]:
        """Inside, an error is the member's own end, not the group's."""
        try:
            with member.at_work():
                yield
        except Exception as error:
            member.fail(error)

    def _each(self, do: Callable[[Member], object]) -> None:
        """Do something with every member that still trains; those that fail at it leave the stack."""
        for member in self.members:
            with self._surviving(member):
                do(member)
        self._restack()

    def _restack(self) -> None:
        self._leave([member for member in self.members if member.result is not None])

    def _leave(self, leaving: Sequence[Member]) -> None:
        if leaving:
            self.steps.release(leaving)
            self.members = [member for member in self.members if member not in leaving]
            if self.members:
                self._join()

    # ---------------------------------------------------------------- before the first step

    def _build(self, writer: ThreadPoolExecutor) -> None:
        git = read_git_state()
        stored = plugins.load(self.members[0].request.config.plugins)
        threads = torch.get_num_threads()
        for member in self.members:
            with self._surviving(member):
                member.open(git)
                # One model at a time is too little work for more threads.
                member.build(self.found.data, 1, stored, writer)
        torch.set_num_threads(threads)
        # Those of equal settings side by side: they share a call of the optimizer's kernel.
        self.members = sorted(
            (member for member in self.members if member.result is None),
            key=lambda member: repr(settings_of(member.run.optimizer)),
        )

    def _begin(self) -> None:
        first = self.members[0]
        run, config, resumed = first.run, first.request.config, first.request.resumed
        self.cursor.load_state_dict(run.state.state_dict())
        self.total, self.samples = run.total_steps, run.train_loader.samples
        self.batch_size, self.every_steps = config.train.batch_size, config.checkpoint.every_steps
        self.guarded, self.metrics = run.hook("guard") is not None, run.metrics
        self.readout = run.readout
        self._join()
        if resumed is not None:
            config = resumed.with_recorded_threads(config, first.record.values)
        steps: Any = self.steps
        threads = runtime.choose_threads(
            *(config.threads, first.built.device, steps.stack, steps.optimizer, stacked_step, steps.batch())
        )
        models = len(self.members)
        notices = [f"one of {models} models that train as one (fused)", *self.notices]
        self._each(lambda member: member.begin(models, threads, notices))

    def _join(self) -> None:
        """Make one stack of the members."""
        self.steps = StackedSteps(self.members, self.found, self.cursor, self.samples, self.batch_size)

    # ---------------------------------------------------------------- the loop

    def _fit(self) -> None:
        cursor = self.cursor
        while self.members and (cursor.step < self.total or cursor.evaluated < cursor.step):
            started = time.perf_counter()
            while self.members and cursor.step < self.total and not cursor.evaluation_due:
                self._window()
                self._each(_step_ended)
                self._heed()
            cursor.epoch_seconds += time.perf_counter() - started
            if self.members:
                self._end_epoch()

    def _window(self) -> None:
        """Take steps, then write their losses; a model whose loss is not finite leaves."""
        cursor, steps = self.cursor, self.steps
        left = -(-(self.samples - cursor.position) // self.batch_size)
        count = min(_WINDOW, self.total - cursor.step, left)
        if self.every_steps is not None:
            count = min(count, self.every_steps - cursor.step % self.every_steps)
        mark = steps.mark() if self.guarded else None
        losses, rates = steps.take(count, self._is_stopped)
        bad = next((number for number, row in enumerate(losses) if not _finite(row)), None)
        if mark is None or bad is None:
            self._commit(losses, rates)
            return
        steps.back_to(mark)
        again = steps.take(bad, self._is_stopped)
        self._commit(*again)
        if len(again[0]) < bad:
            return  # stopped on the way; if it goes on, the bad step comes again
        for member, value in zip(steps.members, losses[bad], strict=True):
            if not math.isfinite(value) and member.result is None:
                with self._surviving(member):
                    raise member.not_finite(value)
        self._restack()

    def _is_stopped(self) -> bool:
        return self.signals.received is not None

    def _commit(self, losses: list[list[float]], rates: list[list[float]]) -> None:
        """Bring the members to the cursor, and write and show their steps."""
        if not losses:
            return
        self.steps.follow()
        first, epoch = self.cursor.step - len(losses) + 1, self.cursor.epoch_number
        for row, member in enumerate(self.members):
            self._put(member)
            member.run.state.lr = rates[-1][row]
            taken = enumerate(zip(losses, rates, strict=True), start=first)
            with self._surviving(member):
                member.stepped([(step, epoch, loss[row], rate[row]) for step, (loss, rate) in taken])
        self._restack()

    def _put(self, member: Member) -> None:
        for key in ("step", "epoch", "position", "evaluated", "epoch_seconds", "epoch_samples"):
            setattr(member.run.state, key, getattr(self.cursor, key))

    def _heed(self) -> None:
        """Raise where a signal has come: all members are between two steps."""
        if self.members:
            run = self.members[0].run
            self.signals.poll(run)
            run.control.interrupt()

    def _end_epoch(self) -> None:
        """Evaluate, and finish the members that stop early."""
        cursor, val = self.cursor, self.members[0].run.val_loader
        values: list[dict[str, float]] = [{} for _ in self.members]
        if val is not None:
            values = self._evaluate(self.steps.stack, val.batches(), [{} for _ in self.members], "val")
        cursor.evaluated = cursor.step
        of_member = dict(zip(self.members, values, strict=True))

        def evaluated(member: Member) -> None:
            self._put(member)
            member.run.call("evaluated", of_member[member])
            member.run.state.epoch_seconds, member.run.state.epoch_samples = 0.0, 0
            member.run.obey()

        self._each(evaluated)
        cursor.epoch_seconds, cursor.epoch_samples = 0.0, 0
        self._heed()
        stopping = [member for member in self.members if member.run.state.stop is not None]
        if stopping and cursor.step < self.total:
            self._leave(stopping)
            self._draw(self._finish(stopping))

    def _evaluate(
        self, stack: Stack, batches: Iterable[Batch], beside: Sequence[Mapping[str, Any]], split: str
    ) -> list[dict[str, float]]:
        """The values of each model of the stack, whose names begin with the split's; ``beside`` are metrics
        of each model beside those of the run."""

        def polled() -> Iterator[Batch]:
            for batch in batches:
                self._heed()
                yield batch

        metrics = [{name: make() for name, make in self.metrics.items()} | dict(own) for own in beside]
        values = stack.evaluate(polled(), metrics, self.readout)
        return [{f"{split}/{name}": value for name, value in own.items()} for own in values]

    # ---------------------------------------------------------------- the end

    def _finish(self, members: Sequence[Member]) -> list[tuple[Member, Any]]:
        """Save, test each on its best checkpoint, and close its files; returns those that are done, with the
        counts of their classes."""
        for member in members:
            with self._surviving(member):
                member.run.save()
        tested: list[Member] = []
        for member in members:
            if member.result is None:
                with self._surviving(member):
                    member.checkpointer.wait()
                    _load_best(member)
                    tested.append(member)
        if not tested:
            return []
        counted = [make_confusion(member.request, member.built) for member in tested]
        values: list[dict[str, float]] = [{} for _ in tested]
        if (test := tested[0].built.test) is None:
            counted = [None for _ in tested]
        else:
            models = [member.run.model for member in tested]
            stack = Stack(models, tested[0].run.criterion, self.found.sample)
            beside = [{} if each is None else {"confusion": each} for each in counted]
            values = self._evaluate(stack, test.batches(), beside, "test")
        for member, own in zip(tested, values, strict=True):
            with self._surviving(member):
                member.done(own)
        pairs = zip(tested, counted, strict=True)
        return [pair for pair in pairs if not isinstance(pair[0].result, BaseException)]

    @staticmethod
    def _draw(done: Sequence[tuple[Member, Any]]) -> None:
        """Draw the pictures of the runs that are done; a signal ends this only."""
        came: list[BaseException] = []
        for member, confusion in done:
            if not came:
                with interruptible(member.display) as now, member.at_work():
                    draw_pictures(member.request, member.built, member.best_step, confusion, member.display)
                came += now
            member.show_end()
        if came:
            raise came[0]


def _step_ended(member: Member) -> None:
    member.checkpointer.step(member.run, _NO_LOSS)
    member.run.obey()


def _load_best(member: Member) -> None:
    state = member.run.state
    if member.built.test is not None and state.best is not None and state.best["step"] != state.step:
        best = member.request.directory / "checkpoints" / folder_name(state.best["step"])
        member.run.model.load_state_dict(read_checkpoint(best, training=False).model)


def _finite(row: Sequence[float]) -> bool:
    total = sum(row)
    # A finite sum has finite terms only; a sum may overflow.
    return total - total == 0 or all(map(math.isfinite, row))
