"""Says it where parameters that train get no gradient."""

from __future__ import annotations

from torch import Tensor

from trainctl.training.run import Hook, Run

_STEPS, _SHOWN = 10, 3


class Unreached(Hook):
    """Announces once which parameters had no gradient in any of the first steps.

    Not of one step alone: a model may leave out layers at random, or by what is in a batch.
    """

    name = "unreached"

    def __init__(self) -> None:
        self._steps = 0
        self._without: dict[str, Tensor] | None = None

    def step(self, run: Run, loss: Tensor) -> None:
        if self._steps == _STEPS:
            return
        self._steps += 1
        trained = {name: each for name, each in run.model.named_parameters() if each.requires_grad}
        left = trained if self._without is None else self._without
        self._without = {name: each for name, each in left.items() if each.grad is None}
        if not self._without:
            self._steps = _STEPS
        # Where none has a gradient, the step computes them elsewhere.
        elif self._steps == min(_STEPS, run.total_steps) and len(self._without) < len(trained):
            names = list(self._without)
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            what = f"no gradient in the first {self._steps} steps: {', '.join(names[:_SHOWN])}{more}"
            run.announce("unreached", f"{what}; the outputs do not depend on what should train", what)
