"""A group of jobs, trained as one stacked model.

What the standard loop does with one run is done here with all of them at once. Steps are taken in windows of
up to 50, or of a second: only at the end of one is the device waited for, are losses written and signals
looked at. A loss that is not finite is found there, too; the window is then taken back and repeated up to the
bad step, whose model leaves the stack as it was before it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainctl.checkpoint import format as checkpoint
from trainctl.data import Data
from trainctl.data.sampler import cursor_after, epoch_order
from trainctl.errors import InterruptedRunError, TrainctlError
from trainctl.registry import plugins
from trainctl.registry.protocols import Batch
from trainctl.sweep.fused._member import Member, logging_on
from trainctl.sweep.fused._probe import Probe, probe
from trainctl.training import runtime
from trainctl.training.artifacts import draw_pictures, interruptible, make_confusion
from trainctl.training.display import Display
from trainctl.training.failures import record_stop
from trainctl.training.hooks.signals import Signals
from trainctl.training.interrupts import Stopped
from trainctl.training.request import Request
from trainctl.training.state import State
from trainctl.training.steps.stacked import Stack, StackedOptimizer, settings_of, stacked_step
from trainctl.training.train import git_state
from trainctl.training.train import train as train_alone

_WINDOW = 50
_SECONDS = 1.0
_WRITERS = 8
_ON_THEIR_OWN = "trained on its own, not in a stack: {}"


def train(
    requests: Sequence[Request], progress: Callable[[int], Display], sharing: int
) -> list[dict[str, Any] | BaseException]:
    """See :func:`trainctl.sweep.fused.train_group`."""
    members = [Member(number, request, progress(number)) for number, request in enumerate(requests)]
    try:
        for together, said, found in _divided(members, sharing):
            if found is None:
                for member in together:
                    _train_alone(member, said)
            else:
                _train_together(together, found, said)
    except (Stopped, KeyboardInterrupt) as error:
        told = error.error if isinstance(error, Stopped) else InterruptedRunError("interrupted")
        for member in members:
            if member.result is None:
                record_stop(member.request.directory, told)
                member.result = told
    return [member.result for member in members if member.result is not None]


def _divided(members: Sequence[Member], sharing: int) -> Iterator[tuple[list[Member], str, Probe | None]]:
    """The members that train together, what they are told, and what was found out about them: None where
    they train alone."""
    same, others = _at_one_step(members)
    if others:
        yield others, "it is at another step than the rest of its group", None
    try:
        with torch.random.fork_rng():
            found = probe(same[0].request.config, sharing)
    except TrainctlError:
        # Each says for itself what is wrong with it.
        yield same, "", None
        return
    if found.reason is not None or len(same) == 1:
        yield same, found.reason or "no other job of its group is at its step", None
        return
    # As equal as they can be: 20 of which 16 fit are twice 10.
    size = -(-len(same) // -(-len(same) // found.most))
    said = f"of {len(same)} models {size} train at a time: there is memory for {found.most}"
    for start in range(0, len(same), size):
        yield same[start : start + size], said if size < len(same) else "", found


def _at_one_step(members: Sequence[Member]) -> tuple[list[Member], list[Member]]:
    """The largest number of members that stand at the same place of their training, and the others."""

    def place(member: Member) -> tuple[Any, ...]:
        resumed = member.request.resumed
        if resumed is None:
            return ()
        return tuple(resumed.content.state.get(key) for key in ("step", "epoch", "position", "evaluated"))

    places: dict[tuple[Any, ...], list[Member]] = {}
    for member in members:
        places.setdefault(place(member), []).append(member)
    largest = max(places.values(), key=len)
    return largest, [member for member in members if member not in largest]


def _train_alone(member: Member, reason: str) -> None:
    request = member.request
    if reason:
        said = (*request.notices, _ON_THEIR_OWN.format(reason))
        request = replace(request, notices=said)
    try:
        member.result = train_alone(request, member.display)
    except TrainctlError as error:
        member.result = error
        if error.status in ("interrupted", "terminated"):
            raise Stopped(error) from error
    except Exception as error:
        member.result = error


def _train_together(members: list[Member], found: Probe, said: str) -> None:
    group = Group(members, found, said)
    try:
        group.train()
    except BaseException as error:
        for member in members:
            if member.result is None:
                member.fail(error)
        if not isinstance(error, Exception):
            raise
        if isinstance(error, TrainctlError) and error.status in ("interrupted", "terminated"):
            raise Stopped(error) from error


@dataclass(frozen=True)
class _Mark:
    """What a window changes, as it was before it."""

    cursor: tuple[int, int, int, int]
    tensors: list[Tensor]
    schedules: list[tuple[list[dict[str, Any]], Any]]


class Group:
    """Members that stand at the same step, and the stack they are.

    Attributes:
        members: those that still train, by the row that each has in the stack.
        cursor: where all of them stand.
        said: what they are told beside.
    """

    def __init__(self, members: Sequence[Member], found: Probe, said: str) -> None:
        self.members, self.found, self.said = list(members), found, said
        self.data: Data = found.data
        self.cursor = State()
        self.signals = Signals()

    def train(self) -> None:
        """Train all members; each has its result then. Raises what stops all of them."""
        with logging_on(), ThreadPoolExecutor(_WRITERS, thread_name_prefix="checkpoint") as writer:
            self._build(writer)
            if not self.members:
                return
            self._begin()
            with self.signals.caught():
                try:
                    self._fit()
                    done = self._finish(self.members)
                except TrainctlError as error:
                    if error.status in ("interrupted", "terminated"):
                        self._each(partial(_stop, error=error))
                    raise
        self._draw(done)

    @contextmanager
    def _surviving(self, member: Member) -> Iterator[None]:
        """What goes wrong inside is the member's own end, not the group's."""
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

    # ---------------------------------------------------------------- before the first step

    def _build(self, writer: ThreadPoolExecutor) -> None:
        git = git_state()
        config = self.members[0].request.config
        stored = plugins.load(config.plugins)
        threads = torch.get_num_threads()
        for member in self.members:
            with self._surviving(member):
                member.open(git)
                # One model at a time is too little work for more threads.
                member.build(self.data, 1, stored, writer)
        torch.set_num_threads(threads)
        # Those of equal settings side by side: they share a call of the optimizer's kernel.
        self.members = sorted(
            (member for member in self.members if member.result is None),
            key=lambda member: repr(settings_of(member.run.optimizer)),
        )

    def _begin(self) -> None:
        first = self.members[0]
        run, request = first.run, first.request
        self.cursor.load_state_dict(run.state.state_dict())
        self.total, self.samples = run.total_steps, run.train_loader.samples
        self.batch_size = request.config.train.batch_size
        self.guarded = run.hook("guard") is not None
        self.every_steps = request.config.checkpoint.every_steps
        self.epoch = -1
        self._join()
        self.threads = self._choose_threads()
        models = len(self.members)
        notices = [f"one of {models} models that train as one (fused)", *([self.said] if self.said else [])]
        self._each(lambda member: member.begin(models, self.threads, notices))

    def _choose_threads(self) -> tuple[int, str]:
        """As a run chooses them, by measuring the stacked step."""
        first = self.members[0]
        asked = first.request.config.threads
        if first.request.resumed is not None:
            asked = first.request.resumed.with_recorded_threads(
                first.request.config, first.record.values
            ).threads
        self._order(self.cursor.epoch)
        return runtime.choose_threads(
            asked,
            first.built.device,
            self.stack,  # type: ignore[arg-type]
            self.optimizer,  # type: ignore[arg-type]
            stacked_step,
            self._batch(0),
        )

    # ---------------------------------------------------------------- the stack

    def _join(self) -> None:
        """Make one stack of the members."""
        models = [member.run.model for member in self.members]
        self.stack = Stack(models, self.members[0].run.criterion, self.found.sample)
        self.optimizer = StackedOptimizer(
            self.stack, models, [member.run.optimizer for member in self.members]
        )
        self.orders: Tensor | None = None
        self._mark_memory: list[Tensor] = []
        # Of those that share their settings the first steps its scheduler.
        self.leaders = [self.members[row] for row, _ in self.optimizer.sharing]
        for leader, (row, length) in zip(self.leaders, self.optimizer.sharing, strict=True):
            for member in self.members[row : row + length]:
                member.sync = self._syncing(member, leader)
        for leader in self.leaders:
            # A scheduler would warn of a first step without the optimizer's.
            leader.run.optimizer._opt_called = True  # type: ignore[attr-defined]
        self.scheduled = self.leaders[0].run.scheduler is not None

    @staticmethod
    def _syncing(member: Member, leader: Member) -> Callable[[], None]:
        def sync() -> None:
            own_scheduler, scheduler = member.run.scheduler, leader.run.scheduler
            if member is leader or own_scheduler is None or scheduler is None:
                return
            groups = zip(member.run.optimizer.param_groups, leader.run.optimizer.param_groups, strict=True)
            for own, followed in groups:
                own.update({key: value for key, value in followed.items() if key != "params"})
            own_scheduler.load_state_dict(scheduler.state_dict())

        return sync

    def _restack(self) -> None:
        """Let those that have ended leave the stack."""
        left = [member for member in self.members if member.result is None]
        if len(left) < len(self.members):
            self._leave([member for member in self.members if member.result is not None])

    def _leave(self, leaving: Sequence[Member]) -> None:
        for member in self.members:
            member.sync()
        for member in leaving:
            self.stack.release(member.run.model)
            self.optimizer.release(member.run.optimizer)
        self.members = [member for member in self.members if member not in leaving]
        if self.members:
            self._join()

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
        """Take steps, then write down their losses; a model with one that is not finite leaves."""
        mark = self._mark() if self.guarded else None
        losses, rates = self._take(self._room())
        bad = next((number for number, row in enumerate(losses) if not _finite(row)), None)
        if mark is None or bad is None:
            self._commit(losses, rates)
            return
        self._back_to(mark)
        values = losses[bad]
        again = self._take(bad)
        self._commit(*again)
        if len(again[0]) < bad:
            return  # told to stop on the way; if it goes on, the bad step comes again
        rows = [row for row, value in enumerate(values) if not math.isfinite(value)]
        for row in rows:
            with self._surviving(self.members[row]):
                raise self.members[row].not_finite(torch.tensor(values[row]))
        self._restack()

    def _room(self) -> int:
        """Steps to the end of the window, of the epoch, of the run, or to the next checkpoint."""
        cursor = self.cursor
        room = min(_WINDOW, self.total - cursor.step, -(-(self.samples - cursor.position) // self.batch_size))
        return (
            room if self.every_steps is None else min(room, self.every_steps - cursor.step % self.every_steps)
        )

    def _take(self, count: int) -> tuple[list[list[float]], list[list[float]]]:
        """Take up to ``count`` steps; the losses and the learning rates of each, a number a model.

        Fewer where they take longer than a second, or where a signal comes.
        """
        cursor, losses, rates = self.cursor, [], []
        if cursor.epoch != self.epoch or self.orders is None:
            self._order(cursor.epoch)
        until = time.monotonic() + _SECONDS
        for _ in range(count):
            inputs, targets = self._batch(cursor.position)
            losses.append(stacked_step(self.stack, self.optimizer, inputs, targets))
            rates.append(self._rates())
            count = inputs.shape[1]
            after = cursor_after(cursor.cursor, count, self.samples)
            cursor.stepped(Batch(inputs, targets, count, after), 0.0)
            if self.scheduled:
                self._schedule()
            if self.signals.received is not None or time.monotonic() > until:
                break
        return (torch.stack(losses).tolist() if losses else []), rates

    def _rates(self) -> list[float]:
        """The learning rate of each of those that share their settings."""
        return [leader.run.optimizer.param_groups[0]["lr"] for leader in self.leaders]

    def _schedule(self) -> None:
        for leader, (row, _) in zip(self.leaders, self.optimizer.sharing, strict=True):
            leader.run.scheduler.step()  # type: ignore[union-attr]
            self.optimizer.follow(row, leader.run.optimizer)

    def _commit(self, losses: list[list[float]], rates: list[list[float]]) -> None:
        """Bring the members to where the cursor is, and write and show what they did."""
        if not losses:
            return
        cursor = self.cursor
        first, epoch = cursor.step - len(losses) + 1, cursor.epoch_number
        numbers = range(first, cursor.step + 1)
        piece = {
            row + number: slot
            for slot, (row, length) in enumerate(self.optimizer.sharing)
            for number in range(length)
        }
        for row, member in enumerate(self.members):
            own = [each[piece[row]] for each in rates]
            self._put(member, own[-1])
            with self._surviving(member):
                member.stepped(
                    [
                        (step, epoch, loss[row], rate)
                        for step, loss, rate in zip(numbers, losses, own, strict=True)
                    ]
                )
        self._restack()

    def _put(self, member: Member, rate: float | None = None) -> None:
        state, cursor = member.run.state, self.cursor
        for key in ("step", "epoch", "position", "evaluated", "epoch_seconds", "epoch_samples"):
            setattr(state, key, getattr(cursor, key))
        if rate is not None:
            state.lr = rate

    def _heed(self) -> None:
        """Raise where a signal has come: all members stand between two steps."""
        if self.members:
            run = self.members[0].run
            self.signals.poll(run)
            run.control.interrupt()

    # ---------------------------------------------------------------- back

    def _mark(self) -> _Mark:
        tensors = [*self.stack.trained, *self.optimizer.tensors()]
        if not self._mark_memory:
            self._mark_memory = [torch.empty_like(tensor) for tensor in tensors]
        with torch.no_grad():
            torch._foreach_copy_(self._mark_memory, tensors)
        schedules = [
            (
                [{**group, "params": None} for group in leader.run.optimizer.param_groups],
                copy.deepcopy(leader.run.scheduler.state_dict()),
            )
            for leader in self.leaders
            if leader.run.scheduler is not None
        ]
        cursor = self.cursor
        return _Mark(
            (cursor.step, cursor.epoch, cursor.position, cursor.epoch_samples), self._mark_memory, schedules
        )

    def _back_to(self, mark: _Mark) -> None:
        cursor = self.cursor
        cursor.step, cursor.epoch, cursor.position, cursor.epoch_samples = mark.cursor
        with torch.no_grad():
            torch._foreach_copy_([*self.stack.trained, *self.optimizer.tensors()], mark.tensors)
        if not mark.schedules:
            return
        sharing = zip(self.leaders, self.optimizer.sharing, mark.schedules, strict=True)
        for leader, (row, _), (groups, state) in sharing:
            for group, kept in zip(leader.run.optimizer.param_groups, groups, strict=True):
                group.update({key: value for key, value in kept.items() if key != "params"})
            leader.run.scheduler.load_state_dict(state)  # type: ignore[union-attr]
            self.optimizer.follow(row, leader.run.optimizer)

    # ---------------------------------------------------------------- data

    def _order(self, epoch: int) -> None:
        """The order in which each model sees the data in ``epoch``, shape (models, samples)."""
        seeds = [member.built.seed for member in self.members]
        orders = {seed: epoch_order(self.samples, seed, epoch) for seed in set(seeds)}
        stacked = torch.stack([orders[seed] for seed in seeds])
        self.epoch, self.orders = epoch, stacked.to(self.members[0].built.device)

    def _batch(self, position: int) -> tuple[Tensor, Tensor]:
        """The batch of each model at ``position``. Shape: (models, N, …) both."""
        assert self.orders is not None
        index = self.orders[:, position : position + self.batch_size]
        flat = index.reshape(-1)
        inputs = self.found.inputs.index_select(0, flat)
        if not self.found.is_transformed:
            inputs = self.data.transform(inputs)
        targets = self.data.train.targets.index_select(0, flat)
        return inputs.view(*index.shape, *inputs.shape[1:]), targets.view(*index.shape, *targets.shape[1:])

    # ---------------------------------------------------------------- evaluation and the end

    def _end_epoch(self) -> None:
        """Evaluate, move on to the next epoch where this one is whole, and let go who has nothing left."""
        cursor, val = self.cursor, self.members[0].run.val_loader
        values: list[dict[str, float]] = [{} for _ in self.members]
        if val is not None:
            makers = self.members[0].run.metrics
            metrics = [{name: make() for name, make in makers.items()} for _ in self.members]
            values = self.stack.evaluate(self._polled(val.batches()), metrics)
        cursor.evaluated = cursor.step
        for member, own in zip(self.members, values, strict=True):
            self._put(member)
            with self._surviving(member):
                member.run.call("evaluated", {f"val/{name}": value for name, value in own.items()})
                member.run.state.epoch_seconds, member.run.state.epoch_samples = 0.0, 0
                member.run.obey()
        cursor.epoch_seconds, cursor.epoch_samples = 0.0, 0
        self._restack()
        self._heed()
        stopping = [member for member in self.members if member.run.state.stop is not None]
        if stopping and cursor.step < self.total:
            self._leave(stopping)
            self._draw(self._finish(stopping))

    def _polled(self, batches: Any) -> Iterator[Any]:
        for batch in batches:
            self._heed()
            yield batch

    def _finish(self, members: Sequence[Member]) -> list[tuple[Member, Any]]:
        """Save, test each on its best checkpoint, and close its books; returns who is done, with what counted
        its classes."""
        for member in members:
            with self._surviving(member):
                member.run.save()
        tested: list[Member] = []
        for member in members:
            if member.result is None:
                with self._surviving(member):
                    member.checkpointer.wait()
                    self._load_best(member)
                    tested.append(member)
        if not tested:
            return []
        values, counted = self._test(tested)
        for member, own in zip(tested, values, strict=True):
            with self._surviving(member):
                member.done(own)
        return [
            (member, confusion)
            for member, confusion in zip(tested, counted, strict=True)
            if not isinstance(member.result, BaseException)
        ]

    @staticmethod
    def _load_best(member: Member) -> None:
        state = member.run.state
        if member.built.test is not None and state.best is not None and state.best["step"] != state.step:
            best = member.request.directory / "checkpoints" / checkpoint.folder_name(state.best["step"])
            member.run.model.load_state_dict(checkpoint.read(best).model)

    def _test(self, members: Sequence[Member]) -> tuple[list[dict[str, float]], list[Any]]:
        counted = [make_confusion(member.request, member.built) for member in members]
        test, makers = members[0].built.test, members[0].run.metrics
        if test is None:
            return [{} for _ in members], [None for _ in members]
        metrics = [
            {name: make() for name, make in makers.items()} | ({} if each is None else {"confusion": each})
            for each in counted
        ]
        models = [member.run.model for member in members]
        stack = Stack(models, members[0].run.criterion, self.found.sample)
        values = stack.evaluate(self._polled(test.batches()), metrics)
        return [{f"test/{name}": value for name, value in own.items()} for own in values], counted

    @staticmethod
    def _draw(done: Sequence[tuple[Member, Any]]) -> None:
        """The pictures of the runs that are done: nothing of this can change what they are."""
        came: list[BaseException] = []
        for member, confusion in done:
            if not came:
                with interruptible(member.display) as now, member.at_work():
                    draw_pictures(member.request, member.built, member.best_step, confusion, member.display)
                came += now
            member.show_end()
        if came:
            raise came[0]


def _stop(member: Member, error: TrainctlError) -> None:
    member.stop(error)


def _step_ended(member: Member) -> None:
    member.checkpointer.step(member.run, _NO_LOSS)
    member.run.obey()


_NO_LOSS = torch.zeros(())


def _finite(row: Sequence[float]) -> bool:
    total = sum(row)
    # A finite sum has finite terms only; a sum may overflow.
    return total - total == 0 or all(map(math.isfinite, row))
