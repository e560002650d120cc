"""Keeps the newest and the best evaluation, and stops when nothing improves any more."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trainctl.training.run import Hook, Run


def is_better(value: float, than: float | None, min_delta: float = 0.0, *, lower_is_better: bool) -> bool:
    """Whether ``value`` improves on ``than`` by more than ``min_delta``; NaN and infinity never do."""
    if not math.isfinite(value):
        return False
    if than is None:
        return True
    gain = than - value if lower_is_better else value - than
    return gain > min_delta


def tie_loss(values: Mapping[str, float]) -> float:
    """What decides between equal values of the monitor: the validation loss, where there is one."""
    loss = values.get("val/loss", 0.0)
    return loss if math.isfinite(loss) else math.inf


class Best(Hook):
    """Records ``state.last`` and ``state.best``; with ``patience`` it also asks to stop early.

    Args:
        monitor: such as ``val/accuracy``.
        patience: evaluations without improvement after which to stop; None never stops.
        min_delta: an improvement resets the patience only if it is larger. It is the best all the same.
    """

    name = "best"

    def __init__(
        self, monitor: str, patience: int | None = None, min_delta: float = 0.0, *, lower_is_better: bool
    ) -> None:
        self.monitor, self.lower_is_better = monitor, lower_is_better
        self.patience, self.min_delta = patience, min_delta

    def _is_best(self, values: Mapping[str, float], best: Mapping[str, float]) -> bool:
        """Better than ``best``. Ties go to the lower loss, then to the later evaluation."""
        value, other = values[self.monitor], best[self.monitor]
        if value == other:
            return tie_loss(values) <= tie_loss(best)
        return is_better(value, other, lower_is_better=self.lower_is_better)

    def evaluated(self, run: Run, values: Mapping[str, float]) -> None:
        state = run.state
        state.last = {**state.where, **values}
        if self.monitor not in values:
            return
        value, lower = values[self.monitor], self.lower_is_better
        if math.isfinite(value) and (state.best is None or self._is_best(values, state.best)):
            state.best = dict(state.last)
        if is_better(value, state.best_value, self.min_delta, lower_is_better=lower):
            state.best_value, state.num_bad_epochs = value, 0
        else:
            state.num_bad_epochs += 1
        if self.patience is not None and state.num_bad_epochs >= self.patience:
            run.control.stop(f"no better {self.monitor} for {state.num_bad_epochs} evaluations")
