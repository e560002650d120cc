"""The training loop: the standard one, whole, on one screen.

``fit`` calls the hooks at these points, and nothing else attaches to it:

    start
    for each epoch:
        for each batch:
            run.step                train_step, or another whole step of steps/
            scheduler.step
            step
        evaluated                   after the validation split, or without one
    end
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from trainctl.registry.protocols import Criterion, Loader, Model, Optimizer
from trainctl.training.hooks.base import Hook
from trainctl.training.state import State


class Metric(Protocol):
    def update(self, outputs: Tensor, targets: Tensor) -> None: ...
    def compute(self) -> float | Mapping[str, float]: ...


@dataclass
class Run:
    """Everything a loop works on."""

    model: Model
    criterion: Criterion
    optimizer: Optimizer
    scheduler: LRScheduler | None
    train: Loader
    val: Loader | None
    metrics: Mapping[str, Callable[[], Metric]]
    precision: AbstractContextManager[Any]
    total_steps: int
    step: Callable[..., Tensor] = field(default_factory=lambda: train_step)
    state: State = field(default_factory=State)
    hooks: list[Hook] = field(default_factory=list)
    averaged: Model | None = None

    @property
    def result(self) -> Model:
        """The model that is evaluated and saved: the one with averaged weights, where there is one."""
        return self.model if self.averaged is None else self.averaged

    def call(self, event: str, *arguments: Any) -> None:
        """Call the hooks that have something to do at ``event``, in their order."""
        for hook in self.hooks:
            getattr(hook, event)(self, *arguments)


def train_step(
    model: Model,
    criterion: Criterion,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    precision: AbstractContextManager[Any],
) -> Tensor:
    """One step of supervised training; returns the loss, a scalar that is not waited for."""
    with precision:
        loss = criterion(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()  # type: ignore[no-any-return]


def evaluate(
    model: Model,
    criterion: Criterion,
    batches: Iterable[tuple[Tensor, Tensor]],
    metrics: Mapping[str, Callable[[], Metric]],
    precision: AbstractContextManager[Any],
) -> dict[str, float]:
    """Loss and metrics over all batches, each sample counted once whatever the size of the last batch.

    A metric that gives several values has them as ``name/key``.
    """
    totals = {name: make() for name, make in metrics.items()}
    losses, sizes = [], []
    # A criterion that weighs classes divides by weights, not by samples.
    weigh = getattr(criterion, "batch_weight", len)
    with evaluating(model), torch.no_grad():
        for inputs, targets in batches:
            with precision:
                outputs = model(inputs)
                loss = criterion(outputs, targets)
            losses.append(loss)
            sizes.append(weigh(targets))
            for metric in totals.values():
                metric.update(outputs.float(), targets)
    weighted = [loss * size for loss, size in zip(torch.stack(losses).tolist(), sizes, strict=True)]
    values = {"loss": sum(weighted) / sum(sizes)}
    for name, metric in totals.items():
        value = metric.compute()
        if isinstance(value, Mapping):
            values |= {f"{name}/{key}": each for key, each in value.items()}
        else:
            values[name] = value
    return values


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode inside, the mode of before after it, also when an exception passes through."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def fit(run: Run) -> None:
    """Train ``run`` from its state's cursor to its last step, or until a hook sets ``run.state.stop``."""
    state = run.state
    step_hooks = [hook for hook in run.hooks if type(hook).step is not Hook.step]
    run.model.train()
    run.call("start")
    # Interrupted in its evaluation, a run still has that to do.
    while state.stop is None and (state.step < run.total_steps or state.evaluated < state.step):
        started = time.perf_counter()
        rest = run.train.batches(state.epoch, state.position) if state.step < run.total_steps else ()
        for inputs, targets in rest:
            loss = run.step(run.model, run.criterion, run.optimizer, inputs, targets, run.precision)
            state.stepped(len(targets), run.optimizer.param_groups[0]["lr"])
            if run.scheduler is not None:
                run.scheduler.step()
            for hook in step_hooks:
                hook.step(run, loss)
            if state.step == run.total_steps or state.stop is not None:
                break
        state.epoch_seconds += time.perf_counter() - started
        end_epoch(run)
    run.call("end")


def end_epoch(run: Run) -> None:
    """Evaluate, then move the cursor to the next epoch where this one is whole."""
    state = run.state
    values = {} if run.val is None else evaluate_split(run, "val", run.val)
    state.evaluated = state.step
    if state.position >= run.train.samples:
        state.epoch, state.position = state.epoch + 1, 0
    run.call("evaluated", values)
    state.epoch_seconds, state.epoch_samples = 0.0, 0


def evaluate_split(run: Run, split: str, loader: Loader) -> dict[str, float]:
    """Evaluate ``run`` on one split; the names of the values begin with the split's."""
    with evaluating(run.model):
        values = evaluate(
            run.result, run.criterion, polled(run, loader.batches()), run.metrics, run.precision
        )
    return {f"{split}/{name}": value for name, value in values.items()}


def polled(run: Run, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches, with a word to the hooks between them, so that a signal need not wait for the end."""
    for batch in batches:
        run.call("poll")
        yield batch
