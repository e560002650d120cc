"""Training on a few batches again and again: what cannot learn those will not learn the rest.

The oldest check of a model, its data and its loss: Karpathy, A Recipe for Training Neural Networks (2019).
Whatever keeps a loss from reaching zero is off: augmentation, dropout, shuffling, the scheduler.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from torch import Tensor

from trainctl.config.settings import Component, Config
from trainctl.data import AnySplit
from trainctl.data.order import epoch_order
from trainctl.errors import NotLearnedError
from trainctl.registry.protocols import named_modules
from trainctl.training.run import Hook, Run

_NEAR_ZERO = 0.01


def simplified(config: Config) -> Config:
    """The config without scheduler, augmentation, sampling and mixing, and without early stopping, which
    needs validation data."""
    plain: dict[str, Any] = {"augment": [], "sampling": "uniform", "mixup": None, "cutmix": None}
    dataset = replace(config.dataset, common={**config.dataset.common, **plain})
    train = config.train.model_copy(update={"patience": None})
    return replace(config, dataset=dataset, train=train, scheduler=Component("scheduler", "none"))


def first_samples(split: AnySplit, count: int, seed: int) -> AnySplit:
    """The first ``count`` samples, or all, in the order of the first epoch."""
    order = epoch_order(len(split), seed, 0, chunks=getattr(split, "chunks", None))
    return split.select(order[:count])


def without_dropout(model: Any) -> None:
    """Set the probability of every dropout layer to 0, in place."""
    for _, module in named_modules(model):
        if "Dropout" in type(module).__name__ and isinstance(getattr(module, "p", None), float):
            module.p = 0.0


def notice(batches: int, samples: int) -> str:
    """A line for people."""
    which = "one batch" if batches == 1 else f"{batches} batches"
    return (
        f"train.overfit_batches={batches}: {which} ({samples} samples) again and again, in one order; no"
        " validation, test, augmentation, sampling, mixing, dropout or scheduler"
    )


class Overfit(Hook):
    """Stops the run when the loss of every batch is at most a hundredth of its first one.

    Each loss is waited for. A loss below 0 has no zero to reach, and shows nothing.
    """

    name = "overfit"

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.first: list[float] = []
        self.recent: deque[float] = deque(maxlen=batches)

    def step(self, run: Run, loss: Tensor) -> None:
        self.recent.append(loss.item())
        if len(self.first) < self.batches:
            self.first.append(self.recent[-1])
        if self.learned:
            run.control.stop(f"{self._what} learned in {run.state.step} steps: {self._losses}")

    @property
    def learned(self) -> bool:
        """Whether every batch is."""
        near = _NEAR_ZERO * _mean(self.first)
        return len(self.recent) == self.batches and all(0 <= loss <= near for loss in self.recent)

    @property
    def _what(self) -> str:
        return "the batch is" if self.batches == 1 else f"the {self.batches} batches are"

    @property
    def _losses(self) -> str:
        return f"loss {_mean(self.first):.4g} → {_mean(self.recent):.4g}"

    def failure(self, run: Run) -> NotLearnedError | None:
        """Why the batches were not learned; None where they were."""
        if any(loss < 0 for loss in (*self.first, *self.recent)):
            return NotLearnedError(
                f"this loss can be below 0, so that zero says nothing: {self._losses}",
                "overfit on a loss that is 0 at its best, such as loss=mse or loss=cross_entropy",
            )
        if self.learned:
            return None
        return NotLearnedError(
            f"{self._what} not learned in {run.state.step} steps: {self._losses}",
            "try another learning rate (trainctl tune lr) or more train.max_steps; else look at the"
            " targets, at a loss that cannot be zero, and at a model too small for the batch",
        )

    def state_dict(self) -> dict[str, Any]:
        return {"first": list(self.first), "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first, self.recent = list(state["first"]), deque(state["recent"], self.batches)


def _mean(values: Any) -> float:
    return float(sum(values) / len(values)) if values else float("nan")
