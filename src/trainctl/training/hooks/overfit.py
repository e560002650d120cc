"""Ends a run on a few batches when they are learned."""

from __future__ import annotations

from collections import deque
from typing import Any

from torch import Tensor

from trainctl.errors import NotLearnedError
from trainctl.training.run import Hook, Run

_NEAR_ZERO = 0.01


class Overfit(Hook):
    """Stops the run when the loss of every batch is at most a hundredth of what it was at first.

    Each loss is waited for: this is a check, and a short one. A loss that falls below 0 has no zero to reach,
    and nothing is shown by it.
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

    def judge(self, run: Run) -> None:
        """Raise NotLearnedError where the steps have not sufficed, or cannot show it."""
        if any(loss < 0 for loss in (*self.first, *self.recent)):
            raise NotLearnedError(
                f"this loss can be below 0, so that zero says nothing: {self._losses}",
                "overfit on a loss that is 0 at its best, such as loss=mse or loss=cross_entropy",
            )
        if not self.learned:
            raise NotLearnedError(
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
