"""The steps of a group, taken as one stack."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainctl.config.settings import Config
from trainctl.data.order import epoch_order
from trainctl.data.sampler import cursor_after
from trainctl.registry.protocols import Batch
from trainctl.sweep.fused._member import Member
from trainctl.sweep.fused._probe import Probe
from trainctl.training.failures import line_of
from trainctl.training.state import State
from trainctl.training.steps.captured import WARM, CudaGraph
from trainctl.training.steps.stack import Stack
from trainctl.training.steps.stacked import StackedOptimizer, stacked_step

log = logging.getLogger("trainctl")
_SECONDS = 1.0


def _graph_for(device: torch.device, config: Config, found: Probe) -> CudaGraph | None:
    """A graph to record the steps in; None where that is not possible or not asked for."""
    if device.type != "cuda" or config.train.capture is False or not found.is_transformed:
        return None
    return CudaGraph(device)


_Schedule = tuple[list[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Mark:
    """Everything that steps change, as it was before them."""

    cursor: State
    tensors: list[Tensor]
    schedules: list[_Schedule]


class StackedSteps:
    """Takes the steps of ``members``, whose models and optimizers become views into one stack.

    Members of equal settings share a call of the optimizer's kernel and the scheduler of the first, the
    leader. The others take its settings over in :meth:`follow`.

    Args:
        members: those of equal settings side by side; a row of the stack each.
        found: their data.
        cursor: the step that all of them are at; it moves on.
        samples, batch_size: of an epoch and of a step, for each model.
    """

    def __init__(
        self, members: Sequence[Member], found: Probe, cursor: State, samples: int, batch_size: int
    ) -> None:
        self.members, self.found, self.cursor = members, found, cursor
        self.samples, self.batch_size = samples, batch_size
        models = [member.run.model for member in members]
        self.stack = Stack(models, members[0].run.criterion, found.sample)
        self.optimizer = StackedOptimizer(self.stack, models, [member.run.optimizer for member in members])
        self._leaders = [(members[row], row, length) for row, length in self.optimizer.sharing]
        for leader, _, _ in self._leaders:
            # A scheduler would warn of a first step without the optimizer's.
            leader.run.optimizer._opt_called = True  # type: ignore[attr-defined]
        self._is_scheduled = members[0].run.scheduler is not None
        self._epoch = -1
        self._saved: list[Tensor] = []
        self._graph = _graph_for(members[0].built.device, members[0].request.config, found)
        self._eager_ones, self._recorded = WARM, False
        if self._graph is not None:
            self.optimizer.hold_rates()
            self._index = torch.zeros(
                (len(members), batch_size), dtype=torch.long, device=members[0].built.device
            )

    def take(self, count: int, is_stopped: Callable[[], bool]) -> tuple[list[list[float]], list[list[float]]]:
        """Take up to ``count`` steps; the losses and the learning rates of each, a number a model.

        Fewer where they take longer than a second, or once ``is_stopped``.
        """
        cursor = self.cursor
        losses: list[Tensor] = []
        rates: list[list[float]] = []
        until = time.monotonic() + _SECONDS
        while len(losses) < count and not is_stopped() and time.monotonic() < until:
            index = self._next()
            losses.append(self._step(index))
            rates.append([leader.run.optimizer.param_groups[0]["lr"] for leader, _, _ in self._leaders])
            size = index.shape[1]
            after = cursor_after(cursor.cursor, size, self.samples)
            cursor.stepped(Batch(index, index, size, after), 0.0)
            if self._is_scheduled:
                for leader, row, _ in self._leaders:
                    leader.run.scheduler.step()  # type: ignore[union-attr]
                    if self.optimizer.follow(row, leader.run.optimizer):
                        self._give_up("settings of the optimizer change from step to step")
        lengths = [length for _, _, length in self._leaders]
        each = [
            [rate for rate, length in zip(own, lengths, strict=True) for _ in range(length)] for own in rates
        ]
        return (torch.stack(losses).tolist() if losses else []), each

    def batch(self) -> tuple[Tensor, Tensor]:
        """The batch of each model at the cursor. Shape: (models, N, …) both."""
        return self._gathered(self._next())

    def _next(self) -> Tensor:
        """The numbers of the samples of each model at the cursor. Shape: (models, N)."""
        if self.cursor.epoch != self._epoch:
            # The order in which each model sees the data: (models, samples).
            self._epoch, seeds = self.cursor.epoch, [member.built.seed for member in self.members]
            orders = {seed: epoch_order(self.samples, seed, self._epoch)[:] for seed in set(seeds)}
            self._orders = torch.stack([orders[seed] for seed in seeds]).to(self.members[0].built.device)
        position = self.cursor.position
        return self._orders[:, position : position + self.batch_size]

    def _gathered(self, index: Tensor) -> tuple[Tensor, Tensor]:
        flat, data = index.reshape(-1), self.found.data
        inputs = self.found.inputs.index_select(0, flat)
        if not self.found.is_transformed:
            inputs = data.transform(inputs)
        targets = data.train.targets.index_select(0, flat)
        return inputs.view(*index.shape, *inputs.shape[1:]), targets.view(*index.shape, *targets.shape[1:])

    def _whole(self, index: Tensor) -> Tensor:
        return stacked_step(self.stack, self.optimizer, *self._gathered(index))

    def _step(self, index: Tensor) -> Tensor:
        """One step of every model: as a CUDA graph where there is one, after the first few."""
        graph = self._graph
        if graph is None:
            return self._whole(index)
        if index.shape == self._index.shape:
            if self._eager_ones:
                self._eager_ones -= 1
            elif not self._recorded:
                try:
                    self._losses = graph.record(partial(self._whole, self._index))
                    self._recorded = True
                except Exception as error:  # whatever the recording of a model may raise
                    self._give_up(line_of(error))
                    return self._whole(index)
            if self._recorded:
                self._index.copy_(index)
                graph.replay()
                return self._losses.clone()
        return graph.eagerly(partial(self._whole, index))

    def _give_up(self, reason: str) -> None:
        if self._graph is not None:
            self._graph = None
            for member in self.members:
                with member.at_work():
                    log.warning("steps are not captured as a CUDA graph: %s", reason)

    # ---------------------------------------------------------------- to the members

    def follow(self) -> None:
        """Give every member the settings and the scheduler's state of its leader."""
        if self._is_scheduled:
            for leader, row, length in self._leaders:
                schedule = _schedule_of(leader)
                for member in self.members[row + 1 : row + length]:
                    _put(member, schedule)

    def release(self, members: Sequence[Member]) -> None:
        """Give these members tensors of their own."""
        for member in members:
            self.stack.release(member.run.model)
            self.optimizer.release(member.run.optimizer)

    # ---------------------------------------------------------------- back

    def mark(self) -> Mark:
        """Copies for :meth:`back_to`. The next mark reuses the memory of its tensors."""
        tensors = self._changed()
        if not self._saved:
            self._saved = [torch.empty_like(tensor) for tensor in tensors]
        with torch.no_grad():
            torch._foreach_copy_(self._saved, tensors)
        schedules = []
        if self._is_scheduled:
            schedules = [copy.deepcopy(_schedule_of(leader)) for leader, _, _ in self._leaders]
        return Mark(copy.copy(self.cursor), self._saved, schedules)

    def back_to(self, mark: Mark) -> None:
        """Undo the steps since ``mark``."""
        vars(self.cursor).update(vars(mark.cursor))
        with torch.no_grad():
            torch._foreach_copy_(self._changed(), mark.tensors)
        if self._is_scheduled:
            for (leader, row, _), schedule in zip(self._leaders, mark.schedules, strict=True):
                _put(leader, schedule)
                self.optimizer.follow(row, leader.run.optimizer)

    def _changed(self) -> list[Tensor]:
        return [*self.stack.trained, *self.optimizer.tensors()]


def _schedule_of(member: Member) -> _Schedule:
    """The settings of a member's optimizer, and the state of its scheduler."""
    run: Any = member.run
    groups = run.optimizer.param_groups
    settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    return settings, run.scheduler.state_dict()


def _put(member: Member, schedule: _Schedule) -> None:
    settings, state = schedule
    for group, own in zip(member.run.optimizer.param_groups, settings, strict=True):
        group.update(own)
    member.run.scheduler.load_state_dict(state)  # type: ignore[union-attr]
