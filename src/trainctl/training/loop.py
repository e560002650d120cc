"""The training loop: the standard one, whole, in :func:`fit`, and the evaluation of a split.

``fit`` calls the hooks at these points, and nothing else attaches to it:

    start
    for each epoch:
        for each batch:
            batch
            run.step                train_step, or where the config asks for one, another whole step of steps/
            scheduler.step
            step
            settle, save            where a checkpoint was asked for
        poll                        between batches of the evaluation
        evaluated                   after the validation split, or without one
        settle, save
    end
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from trainctl.components.metrics._base import Metric
from trainctl.data.readout import RAW, Readout
from trainctl.registry.protocols import Batch, Criterion, Loader, Model, Optimizer
from trainctl.training.hooks.guard import Guard
from trainctl.training.run import Run


def train_step(
    model: Model,
    criterion: Criterion,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    precision: AbstractContextManager[Any],
    guard: Guard | None = None,
) -> Tensor:
    """One step of supervised training; returns the loss, a scalar that is not waited for.

    A ``guard`` keeps the optimizer from a step that would ruin the parameters. It looks at the loss after the
    backward pass: on several devices it is added up meanwhile. Raises NotFiniteError where no more steps may
    be left out.
    """
    with precision:
        loss = criterion(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    if guard is None or guard.accepts(loss):
        optimizer.step()
    return loss.detach()  # type: ignore[no-any-return]


def fit(run: Run) -> None:
    """Train ``run`` from its cursor to its last step, or until a hook asks it to stop."""
    state, control = run.state, run.control
    batch_hooks = [hook for hook in run.hooks if hook.overrides("batch")]
    step_hooks = [hook for hook in run.hooks if hook.overrides("step")]
    run.model.train()
    run.call("start")
    while state.stop is None and (state.step < run.total_steps or state.evaluated < state.step):
        started = time.perf_counter()
        for batch in remaining(run):
            for hook in batch_hooks:
                hook.batch(run, batch)
            loss = run.step(
                run.model, run.criterion, run.optimizer, batch.inputs, batch.targets, run.precision
            )
            state.stepped(batch, run.optimizer.param_groups[0]["lr"])
            if run.scheduler is not None:
                run.scheduler.step()
            for hook in step_hooks:
                hook.step(run, loss)
            if control.agreed():
                run.obey()
            if state.step == run.total_steps or state.stop is not None:
                break
        state.epoch_seconds += time.perf_counter() - started
        end_epoch(run)
    run.call("end")


def remaining(run: Run) -> Iterable[Batch]:
    """The remaining batches of the running epoch; none if its evaluation is due."""
    state = run.state
    if state.evaluation_due or state.step >= run.total_steps:
        return ()
    return (run.batches or run.train_loader.batches)(state.cursor)


def end_epoch(run: Run) -> None:
    """Evaluate, call the hooks, and obey them."""
    state = run.state
    values = {} if run.val_loader is None else evaluate_split(run, "val", run.val_loader)
    state.evaluated = state.step
    run.call("evaluated", values)
    state.epoch_seconds, state.epoch_samples = 0.0, 0
    if run.control.agreed():
        run.obey()


class MeanLoss:
    """The loss of a split: the mean of its batches' losses, each weighted by what the batch holds."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.weights: list[Any] = []

    def update(self, loss: Tensor, weight: Any) -> None:
        """Add the loss of a batch, a scalar that stays on the device."""
        self.losses.append(loss)
        self.weights.append(weight)

    @classmethod
    def taken_by_turns(cls, parts: Iterable[MeanLoss]) -> MeanLoss:
        """That of batches which several took by turns, in the order of the batches."""
        whole = cls()
        for turn in zip_longest(*(zip(part.losses, part.weights, strict=True) for part in parts)):
            for loss, weight in filter(None, turn):
                whole.update(loss, weight)
        return whole

    def compute(self) -> float:
        return weighted_mean(torch.stack(self.losses).tolist(), [float(weight) for weight in self.weights])


def evaluate(
    model: Model,
    criterion: Criterion,
    batches: Iterable[Batch],
    metrics: Mapping[str, Callable[[], Metric]],
    precision: AbstractContextManager[Any],
    readout: Readout = RAW,
    gather: Callable[[Any], list[Any]] | None = None,
) -> dict[str, float]:
    """Loss and metrics over all batches, exact for any size of the last one.

    Metrics get outputs and targets in the unit of the data, which ``readout`` knows. With ``gather`` the
    batches are this process's, and the values those of all processes together.
    """
    totals: dict[str, Any] = {name: make() for name, make in metrics.items()}
    mean_loss = MeanLoss()
    # A criterion that weighs classes divides by weights, not by samples.
    weigh = getattr(criterion, "batch_weight", len)
    with evaluating(model), torch.no_grad():
        for inputs, targets, *_ in batches:
            with precision:
                outputs = model(inputs)
                loss = criterion(outputs, targets)
            mean_loss.update(loss, weigh(targets))
            for metric in totals.values():
                metric.update(*readout.compared(outputs.float(), targets))
    if gather is not None:
        parts = gather((mean_loss, totals))
        mean_loss = MeanLoss.taken_by_turns(loss for loss, _ in parts)
        totals = parts[0][1]
        for _, others in parts[1:]:
            for name, total in totals.items():
                total.merge(others[name])
    return {"loss": mean_loss.compute(), **computed(totals)}


def computed(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The values of metrics by name; of one that has several, by ``name/key``."""
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        value: Any = metric.compute()
        several = isinstance(value, Mapping)
        values |= {f"{name}/{key}": each for key, each in value.items()} if several else {name: value}
    return values


def weighted_mean(losses: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of the losses of batches. One whose targets are all ignored has no weight and no loss."""
    weighted = [loss * weight for loss, weight in zip(losses, weights, strict=True) if weight]
    return sum(weighted) / sum(weights) if weighted else float("nan")


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode inside; afterwards the earlier mode, also after an exception."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def evaluate_split(run: Run, split: str, loader: Loader) -> dict[str, float]:
    """Evaluate ``run`` on one split; the names of the values begin with the split's."""
    with evaluating(run.model):
        values = evaluate(
            run.result,
            run.criterion,
            polled(run, loader.batches()),
            run.metrics,
            run.precision,
            run.readout,
            run.gather,
        )
    return {f"{split}/{name}": value for name, value in values.items()}


def polled(run: Run, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches, with the hooks polled in between, so that an interrupt need not wait."""
    for batch in batches:
        run.call("poll")
        run.control.interrupt()
        yield batch
