"""The standard loop: an optimizer takes the step."""

from __future__ import annotations

from functools import partial
from typing import Any

from trainctl.config.settings import Config
from trainctl.registry import LOOPS
from trainctl.training.loop import fit, train_step
from trainctl.training.steps.accumulated import accumulated_step


@LOOPS.register("optimizer")
class OptimizerLoop:
    """The standard loop: forward, zero_grad, backward, and any optimizer's step."""

    fit = staticmethod(fit)

    def __init__(self, config: Config) -> None:
        accumulates = config.train.accumulate > 1
        self.step: Any = (
            partial(accumulated_step, batch_size=config.train.batch_size) if accumulates else train_step
        )

    def refusal(self, model: Any, criterion: Any, optimizer: Any) -> None:
        """None: it trains all parts that meet ``trainctl.registry.protocols``."""
