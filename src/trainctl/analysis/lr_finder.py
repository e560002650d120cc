"""The learning-rate range test: a few steps at learning rates from far too small to far too large.

Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186 (2015). Two rules of thumb read
a rate off the curve of the loss: where it falls fastest, and a tenth of where it is lowest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainctl.errors import ConfigError, NoLearningRateError, NotFiniteError
from trainctl.registry.protocols import Batch, Cursor
from trainctl.training.built import Built
from trainctl.training.hooks.clip import ClipNorm
from trainctl.training.run import Run

EXPLODED = 4.0
_DECAY = 0.8
_WINDOW = 1 / 30
_FALL = 0.05
_FEWEST = 10


@dataclass(frozen=True)
class Point:
    """One step: its learning rate, its loss, and the loss smoothed over the steps around it."""

    lr: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class RangeTest:
    """The result of the test.

    Attributes:
        points: the steps taken, in order.
        batch_size: samples a step.
        epochs: passes over the data.
        exploded: the learning rate at which the loss diverged; None where it did not.
        steepest: the learning rate at which the smoothed loss falls fastest.
        lowest: the one at which it is lowest.
    """

    points: tuple[Point, ...]
    batch_size: int
    epochs: float
    exploded: float | None
    steepest: float
    lowest: float

    @property
    def tenth(self) -> float:
        """The other rule of thumb."""
        return self.lowest / 10

    @property
    def suggestion(self) -> float:
        """Where the loss falls fastest, rounded to one digit; never above where it is lowest."""
        return float(f"{min(self.steepest, self.lowest):.0e}")


def range_test(built: Built, start: float, end: float, steps: int) -> RangeTest:
    """Train ``steps`` steps at learning rates from ``start`` to ``end``, each the same factor above the last.

    The steps are the run's own with clipping, but without scheduler and averages. Nothing is saved; the model
    is useless afterwards. Raises NotFiniteError where the first loss is not finite, NoLearningRateError where
    no learning rate can be read off the curve.
    """
    run = built.run
    shares = _shares(run)
    for hook in run.hooks:
        if isinstance(hook, ClipNorm):
            hook.start(run)
    run.model.train()
    rates = [start * (end / start) ** (number / (steps - 1)) for number in range(steps)]
    losses: list[float] = []
    mean = best = math.nan
    samples, exploded = 0, None
    for lr, batch in zip(rates, _batches(run), strict=False):
        for group, share in zip(run.optimizer.param_groups, shares, strict=True):
            group["lr"] = lr * share
        loss = built.trial_step(
            run.model, run.criterion, run.optimizer, batch.inputs, batch.targets, run.precision
        ).item()
        if not math.isfinite(loss):
            if not losses:
                raise NotFiniteError(
                    f"the loss is {loss} at the first step", "check inputs, targets and the model's outputs"
                )
            exploded = lr
            break
        losses.append(loss)
        samples += batch.count
        # The exponential moving average, corrected for its bias towards the first loss.
        mean = loss if len(losses) == 1 else mean + (loss - mean) * (1 - _DECAY) / (1 - _DECAY ** len(losses))
        best = mean if len(losses) == 1 else min(best, mean)
        if mean > EXPLODED * best:
            exploded = lr
            break
    return _read(rates, losses, batch.count, samples / run.train_loader.samples, exploded)


def _shares(run: Run) -> list[float]:
    """Each parameter group's learning rate as a share of the first one's."""
    found = [group.get("lr") for group in run.optimizer.param_groups]
    rates = [rate for rate in found if isinstance(rate, float | int) and rate > 0]
    if rates != found:
        raise ConfigError(
            f"tune lr: {type(run.optimizer).__name__} has no learning rate to set", "choose another optimizer"
        )
    return [rate / rates[0] for rate in rates]


def _batches(run: Run) -> Iterator[Batch]:
    """The run's batches, epoch after epoch."""
    epoch = 0
    while True:
        yield from run.train_loader.batches(Cursor(epoch))
        epoch += 1


def _read(
    rates: Sequence[float], losses: Sequence[float], batch_size: int, epochs: float, exploded: float | None
) -> RangeTest:
    """Read the two learning rates off the curve."""
    if exploded is not None and len(losses) < _FEWEST:
        raise NoLearningRateError(
            f"the loss explodes within {len(losses) + 1} steps, at a learning rate of {exploded:.1e}",
            f"start lower: --from {rates[0] / 1000:.0e}; or check the scale of inputs and targets",
        )
    smoothed = _smooth(losses, max(1.0, len(rates) * _WINDOW))
    points = tuple(map(Point, rates, losses, smoothed))
    lowest = min(range(len(points)), key=lambda number: smoothed[number])
    # The initial level: these steps are too small to change anything.
    level = sum(losses[: _FEWEST // 2]) / (_FEWEST // 2)
    if level - smoothed[lowest] < _FALL * abs(level):
        raise NoLearningRateError(
            f"the loss does not fall between learning rates of {rates[0]:.0e} and {points[-1].lr:.0e}: from"
            f" {level:.4g} to {smoothed[lowest]:.4g} at best",
            "take more steps (--steps 300), widen --from and --to, or check that the model can learn at all:"
            " trainctl debug=overfit",
        )
    # Learning rates are spaced by one factor, so a difference of losses is the slope over log lr.
    slopes = {number: smoothed[number + 1] - smoothed[number - 1] for number in range(1, max(2, lowest))}
    steepest = min(slopes, key=lambda number: slopes[number])
    return RangeTest(points, batch_size, epochs, exploded, points[steepest].lr, points[lowest].lr)


def _smooth(values: Sequence[float], width: float) -> list[float]:
    """Means weighted by a Gaussian of standard deviation ``width`` steps, which shifts nothing."""
    reach = math.ceil(3 * width)
    bell = [math.exp(-0.5 * (offset / width) ** 2) for offset in range(reach + 1)]
    smoothed = []
    for here in range(len(values)):
        around = range(max(0, here - reach), min(len(values), here + reach + 1))
        weights = [bell[abs(each - here)] for each in around]
        weighted = sum(weight * values[each] for weight, each in zip(weights, around, strict=True))
        smoothed.append(weighted / sum(weights))
    return smoothed
